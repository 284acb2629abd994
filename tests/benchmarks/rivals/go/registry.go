package main

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

const remembered = 10 * time.Second

// conversation is what the registry knows: what an event and a document need of it.
type conversation struct {
	active                bool
	customer              string
	session, room         bson.M
	sessionJSON, roomJSON json.RawMessage
	until                 time.Time
}

// registry remembers active conversations for ten seconds, as our worker does.
type registry struct {
	sync.Mutex
	collection *mongo.Collection
	known      map[string]*conversation
}

func newRegistry(collection *mongo.Collection) *registry {
	return &registry{collection: collection, known: map[string]*conversation{}}
}

// find asks for all conversations that are not remembered with one query.
func (r *registry) find(ctx context.Context, messages []*message) map[string]*conversation {
	found, unknown := r.remembered(messages)
	if len(unknown) == 0 {
		return found
	}
	cursor, err := r.collection.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: unknown}}}})
	must(err)
	var records []bson.M
	must(cursor.All(ctx, &records))
	r.Lock()
	defer r.Unlock()
	for _, record := range records {
		id, _ := record["_id"].(string)
		found[id] = fromRecord(record)
		if found[id].active {
			r.known[id] = found[id]
		}
	}
	return found
}

func (r *registry) remembered(messages []*message) (map[string]*conversation, []string) {
	r.Lock()
	defer r.Unlock()
	found, asked := map[string]*conversation{}, map[string]bool{}
	var unknown []string
	now := time.Now()
	for _, m := range messages {
		if m.conversation == "" || found[m.conversation] != nil || asked[m.conversation] {
			continue
		}
		if known := r.known[m.conversation]; known != nil && now.Before(known.until) {
			found[m.conversation] = known
		} else {
			asked[m.conversation] = true
			unknown = append(unknown, m.conversation)
		}
	}
	return found, unknown
}

func fromRecord(record bson.M) *conversation {
	state, _ := record["state"].(string)
	customer, _ := record["customerId"].(string)
	c := &conversation{
		active:   state != "CLOSED" && state != "CLOSING",
		customer: customer,
		until:    time.Now().Add(remembered),
	}
	if sessions, ok := record["channelSessions"].(bson.A); ok && len(sessions) > 0 {
		c.session = asMap(sessions[len(sessions)-1])
	}
	c.room = asMap(record["roomInfo"])
	c.sessionJSON, c.roomJSON = asJSON(c.session), asJSON(c.room)
	return c
}

func asMap(value any) bson.M {
	switch value := value.(type) {
	case bson.M:
		return value
	case bson.D:
		whole := bson.M{}
		for _, element := range value {
			whole[element.Key] = plain(element.Value)
		}
		return whole
	}
	return nil
}

func plain(value any) any {
	if whole := asMap(value); whole != nil {
		return whole
	}
	return value
}

func asJSON(value bson.M) json.RawMessage {
	if value == nil {
		return json.RawMessage("null")
	}
	written, err := json.Marshal(value)
	must(err)
	return written
}
