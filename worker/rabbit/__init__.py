"""Everything that speaks AMQP. `pika` is imported here and nowhere else."""
