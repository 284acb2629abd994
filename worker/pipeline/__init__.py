"""What can happen to a delivery, from its bytes to its one outcome.

    bytes → parse → CimMessage → look up → translate → route → hub ──return──▶ store → settle
              └───────── invalid ──────────────────────────────────▶ dead letters

| Outcome | Decided by |
|---|---|
| published | `pipeline.Pipeline._publish`: confirmed and not returned |
| stored, duplicate | `pipeline.Pipeline._write`: the store's answer |
| retry, dead | `retry.RetryPolicy.after`: the failure's class, the attempt and the budget |
| handed back | `process.session`: a stop, or the end of the broker session |

`settlement.Settlement` makes each of them an acknowledgement, a count and a line in the log; nothing else does.
"""
