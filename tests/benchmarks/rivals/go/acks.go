package main

import (
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// acks acknowledges all deliveries up to a tag at once, as soon as every batch up to it is done.
type acks struct {
	sync.Mutex
	begun []uint64
	done  map[uint64]amqp.Delivery
}

func newAcks() *acks { return &acks{done: map[uint64]amqp.Delivery{}} }

func (a *acks) begin(tag uint64) {
	a.Lock()
	defer a.Unlock()
	a.begun = append(a.begun, tag)
}

func (a *acks) finish(last amqp.Delivery) {
	a.Lock()
	defer a.Unlock()
	a.done[last.DeliveryTag] = last
	var upTo *amqp.Delivery
	for len(a.begun) > 0 {
		delivery, done := a.done[a.begun[0]]
		if !done {
			break
		}
		delete(a.done, a.begun[0])
		a.begun, upTo = a.begun[1:], &delivery
	}
	if upTo != nil {
		must(upTo.Ack(true))
	}
}
