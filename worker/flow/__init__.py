"""Flow control: gates, lanes, windows and budgets. Knows no CIM, no AMQP and no MongoDB."""
