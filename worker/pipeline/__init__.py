"""What can happen to a delivery, from its bytes to its one outcome.

    bytes → parse → CimMessage → look up → translate → route → hub ──return──▶ store → settle
              └───────── invalid ─▶ dead letters                 away or behind └──▶ waiting room

| Outcome | Decided by |
|---|---|
| published | `publishing.Publishing._publish`: confirmed and not returned |
| stored, duplicate | `storing.Storing._end_all`: the store's answer |
| waiting | `storing.Storing.add`, `storing.Storing._hold`, `pipeline.Pipeline._go_on`: the gates, and `store_share` |
| retry, dead | `retry.RetryPolicy.after`: the failure's class, the attempt and the budget |
| handed back | `worker.process.session`: a stop, or the end of the broker session |

`settlement.Settlement` makes each of them a count, a line in the log, an entry of the `journal` and then an
acknowledgement; nothing else does.
"""
