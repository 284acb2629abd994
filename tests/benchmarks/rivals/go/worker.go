package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

const duplicateKey = 11000

// worker brings a batch to its places and returns when every effect is proven.
type worker struct {
	hub        *publisher
	registry   *registry
	activities *mongo.Collection
}

func (w *worker) handle(ctx context.Context, batch []amqp.Delivery) {
	valid := make([]*message, 0, len(batch))
	var confirmations []*amqp.DeferredConfirmation
	for _, delivery := range batch {
		m, problem := read(delivery.Body)
		if problem != nil {
			confirmations = append(confirmations, w.hub.publish(deadLetters, "", letter(delivery.Body, problem)))
			continue
		}
		valid = append(valid, m)
	}
	known := w.registry.find(ctx, valid)
	var live, stored []*message
	var ids []string
	for _, m := range valid {
		if c := known[m.conversation]; m.conversation != "" && (c == nil || c.active) {
			confirmations = append(confirmations, w.hub.publish(hub, m.conversation, event(m, c)))
			live, ids = append(live, m), append(ids, m.eventID)
		} else {
			stored = append(stored, m)
		}
	}
	returned := w.hub.returned(confirmations, ids)
	for _, m := range live {
		if returned[m.eventID] {
			stored = append(stored, m)
		}
	}
	w.store(ctx, stored, known)
}

func (w *worker) store(ctx context.Context, messages []*message, known map[string]*conversation) {
	if len(messages) == 0 {
		return
	}
	documents := make([]any, 0, len(messages))
	now := time.Now()
	for _, m := range messages {
		documents = append(documents, document(m, known[m.conversation], now))
	}
	_, err := w.activities.InsertMany(ctx, documents, options.InsertMany().SetOrdered(false))
	var bulk mongo.BulkWriteException
	if errors.As(err, &bulk) && bulk.WriteConcernError == nil {
		for _, one := range bulk.WriteErrors {
			if one.Code != duplicateKey {
				must(err)
			}
		}
		return
	}
	must(err)
}

func letter(body []byte, problem *invalid) amqp.Publishing {
	headers := amqp.Table{"cim-code": problem.code, "cim-pointer": problem.pointer}
	return amqp.Publishing{Body: body, MessageId: problem.id, Headers: headers}
}

type envelope struct {
	ID             string          `json:"id"`
	Name           string          `json:"name"`
	Type           string          `json:"type"`
	Timestamp      int64           `json:"timestamp"`
	ConversationID string          `json:"conversationId"`
	Emitter        any             `json:"eventEmitter"`
	Session        json.RawMessage `json:"channelSession"`
	Data           json.RawMessage `json:"data"`
	Room           json.RawMessage `json:"roomInfo"`
}

func event(m *message, c *conversation) amqp.Publishing {
	e := envelope{
		ID: m.eventID, Name: "THIRD_PARTY_ACTIVITY", Type: "ACTIVITY", Timestamp: time.Now().UnixMilli(),
		ConversationID: m.conversation, Emitter: object(m.parsed, "header")["sender"], Data: m.body,
	}
	if c != nil {
		e.Session, e.Room = c.sessionJSON, c.roomJSON
		if m.customer == "" && c.customer != "" {
			e.Data = withCustomer(m, c.customer)
		}
	}
	body, err := json.Marshal(e)
	must(err)
	return amqp.Publishing{
		Body: body, MessageId: m.eventID, CorrelationId: m.id, Type: e.Name, AppId: "bench", ContentType: "application/json",
	}
}

func withCustomer(m *message, customer string) json.RawMessage {
	object(m.parsed, "header")["customer"] = map[string]any{"_id": customer}
	written, err := json.Marshal(m.parsed)
	must(err)
	return written
}

func document(m *message, c *conversation, now time.Time) bson.D {
	id, err := bson.ObjectIDFromHex(m.eventID)
	must(err)
	var session, room any
	sessionID, customer := m.session, m.customer
	if c != nil {
		session, room = c.session, c.room
		if customer == "" {
			customer = c.customer
		}
	}
	return bson.D{
		{Key: "_id", Value: id},
		{Key: "customerId", Value: orNull(customer)},
		{Key: "conversationId", Value: orNull(m.conversation)},
		{Key: "channelSessionId", Value: orNull(sessionID)},
		{Key: "activity", Value: bson.D{
			{Key: "_id", Value: m.eventID},
			{Key: "name", Value: "THIRD_PARTY_ACTIVITY"},
			{Key: "type", Value: "ACTIVITY"},
			{Key: "timestamp", Value: now},
			{Key: "conversationId", Value: orNull(m.conversation)},
			{Key: "eventEmitter", Value: native(object(m.parsed, "header")["sender"])},
			{Key: "channelSession", Value: session},
			{Key: "data", Value: native(m.parsed)},
			{Key: "roomInfo", Value: room},
		}},
		{Key: "timestamp", Value: now},
		{Key: "recordCreationTime", Value: now},
		{Key: "messageId", Value: m.id},
	}
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// native turns numbers as they were spelled into what BSON knows.
func native(value any) any {
	switch value := value.(type) {
	case map[string]any:
		whole := make(bson.D, 0, len(value))
		for name, child := range value {
			whole = append(whole, bson.E{Key: name, Value: native(child)})
		}
		return whole
	case []any:
		all := make(bson.A, 0, len(value))
		for _, child := range value {
			all = append(all, native(child))
		}
		return all
	case json.Number:
		if whole, err := value.Int64(); err == nil {
			return whole
		}
		number, err := value.Float64()
		must(err)
		return number
	}
	return value
}
