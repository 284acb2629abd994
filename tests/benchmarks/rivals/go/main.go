// The worker in Go, as a good engineer writes it: RabbitMQ's and MongoDB's own libraries, batches that overlap, deferred
// confirms, one acknowledgement for many deliveries, and the checks that the publisher's page documents: sender, body,
// anchor. It ends at the first thing it did not expect; what it had in hand is delivered again.
package main

import (
	"context"
	"log"
	"os"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
)

const (
	ingress         = "cim.ingress"
	hub             = "cim.conversations"
	deadLetters     = "cim.dead-letters"
	batchSize       = 200
	linger          = 5 * time.Millisecond
	batchesAtOnce   = 8
	defaultPrefetch = 2000
)

func main() {
	prefetch, err := strconv.Atoi(os.Getenv("BENCH_PREFETCH"))
	if err != nil {
		prefetch = defaultPrefetch
	}
	majority := writeconcern.Majority()
	journaled := true
	majority.Journal = &journaled
	client, err := mongo.Connect(options.Client().ApplyURI(os.Getenv("CIM_MONGODB_URI")).SetWriteConcern(majority))
	must(err)
	database := client.Database(os.Getenv("CIM_MONGODB_DATABASE"))
	worker := &worker{
		hub:        newPublisher(channel()),
		registry:   newRegistry(database.Collection("conversations")),
		activities: database.Collection("ConversationActivities"),
	}
	in := channel()
	must(in.Qos(prefetch, 0, false))
	deliveries, err := in.Consume(ingress, "", false, false, false, false, nil)
	must(err)
	run(worker, deliveries)
}

// channel opens a connection of its own: a blocked publisher must not block acknowledgements.
func channel() *amqp.Channel {
	connection, err := amqp.Dial(os.Getenv("CIM_RABBITMQ_URL"))
	must(err)
	channel, err := connection.Channel()
	must(err)
	go func() { log.Fatal(<-connection.NotifyClose(make(chan *amqp.Error, 1))) }()
	return channel
}

func run(worker *worker, deliveries <-chan amqp.Delivery) {
	places := make(chan struct{}, batchesAtOnce)
	acks := newAcks()
	for first := range deliveries {
		places <- struct{}{}
		batch := gather(first, deliveries, len(places) > 1)
		last := batch[len(batch)-1]
		acks.begin(last.DeliveryTag)
		go func() {
			worker.handle(context.Background(), batch)
			acks.finish(last)
			<-places
		}()
	}
}

// gather waits for company only while other batches are in progress: a lone message is never held up.
func gather(first amqp.Delivery, deliveries <-chan amqp.Delivery, wait bool) []amqp.Delivery {
	batch := append(make([]amqp.Delivery, 0, batchSize), first)
	patience := time.Duration(0)
	if wait {
		patience = linger
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for len(batch) < batchSize {
		select {
		case delivery, open := <-deliveries:
			if !open {
				return batch
			}
			batch = append(batch, delivery)
		case <-deadline.C:
			return batch
		}
	}
	return batch
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
