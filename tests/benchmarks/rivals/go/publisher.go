package main

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// publisher publishes with pipelined confirms, and knows which messages nobody took.
type publisher struct {
	channel *amqp.Channel
	ask     chan question
}

type question struct {
	ids    []string
	answer chan map[string]bool
}

func newPublisher(channel *amqp.Channel) *publisher {
	must(channel.Confirm(false))
	p := &publisher{channel: channel, ask: make(chan question)}
	// Unbuffered: the library gives us a return before it goes on to the confirm that follows, so whoever has seen
	// the confirm and then asks here is answered after the return was noted.
	go p.noteReturns(channel.NotifyReturn(make(chan amqp.Return)))
	return p
}

func (p *publisher) noteReturns(returns <-chan amqp.Return) {
	returned := map[string]int{}
	for {
		select {
		case one, open := <-returns:
			if !open {
				return
			}
			returned[one.MessageId]++
		case asked := <-p.ask:
			found := map[string]bool{}
			for _, id := range asked.ids {
				if returned[id] > 0 {
					found[id] = true
					if returned[id]--; returned[id] == 0 {
						delete(returned, id)
					}
				}
			}
			asked.answer <- found
		}
	}
}

func (p *publisher) publish(exchange, key string, message amqp.Publishing) *amqp.DeferredConfirmation {
	message.DeliveryMode = amqp.Persistent
	confirmation, err := p.channel.PublishWithDeferredConfirm(exchange, key, true, false, message)
	must(err)
	return confirmation
}

// returned waits for all confirms and says which of the message ids came back.
func (p *publisher) returned(confirmations []*amqp.DeferredConfirmation, ids []string) map[string]bool {
	for _, confirmation := range confirmations {
		if !confirmation.Wait() {
			must(fmt.Errorf("the broker refused a message"))
		}
	}
	asked := question{ids, make(chan map[string]bool)}
	p.ask <- asked
	return <-asked.answer
}
