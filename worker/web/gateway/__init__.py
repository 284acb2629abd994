"""The HTTP door to the ingress: the queue's best publisher, for clients of the platform's own REST API.

request ──▶ who is it ──▶ its body, bounded ──▶ the worker's own parse ──▶ may it send as this sender
        ──▶ confirmed publish to cim.ingress, one window for all requests ──▶ 200, or the outcome when it asked to wait
"""
