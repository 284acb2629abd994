// Publishes the CIM message in a file and says what became of it: go run . message.json
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const replyTo = "amq.rabbitmq.reply-to" // receipts come back on the channel that publishes, to nobody else

var url = cmp.Or(os.Getenv("CIM_RABBITMQ_URL"), "amqp://localhost:5672/")
var secondsToWait, _ = time.ParseDuration(cmp.Or(os.Getenv("RECEIPT_SECONDS"), "30") + "s")
var errReturned, errRefused = errors.New("no queue took it"), errors.New("the broker did not take it")

type receipt struct{ Outcome, Code, Reason, EventID string }

// send publishes once, on a connection of its own, and returns the receipt, or nil if there was none in time.
func send(user string, body []byte, id, place string) (*receipt, error) {
	connection, err := amqp.Dial(url)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return nil, err
	}
	returned, closed := channel.NotifyReturn(make(chan amqp.Return, 1)), channel.NotifyClose(make(chan *amqp.Error, 1))
	answers, deaf := channel.Consume(replyTo, "", true, false, false, false, nil)
	unconfirmed := channel.Confirm(false)
	confirm, unsent := channel.PublishWithDeferredConfirm("cim.ingress", place, true, false, amqp.Publishing{
		DeliveryMode: amqp.Persistent, MessageId: id, ReplyTo: replyTo, Body: body,
		UserId: user, // checked by the broker: proves who published
	})
	if err := cmp.Or(deaf, unconfirmed, unsent); err != nil {
		return nil, err
	}
	switch taken := confirm.Wait(); {
	case len(closed) > 0: // and the broker or the network says why
		return nil, <-closed
	case !taken:
		return nil, errRefused
	case len(returned) > 0: // a returned message is confirmed, too, and comes back before its confirm
		return nil, errReturned
	}
	fmt.Println("confirmed", id)
	select {
	case answer := <-answers: // empty, which is no JSON, when the connection is lost
		told := new(receipt)
		return told, json.Unmarshal(answer.Body, told)
	case <-time.After(secondsToWait):
		return nil, nil
	}
}

// publish sends until the broker has it, and returns the exit code of `cim-worker publish` and one sentence.
func publish(file string) (int, string) {
	body, err := os.ReadFile(file) // sent as it is, again and again: the same bytes are the same activity
	if err != nil {
		return 2, "name a file with a message: " + err.Error()
	}
	var message struct {
		ID     string
		Header struct {
			ConversationID, ChannelSessionID string
			Customer                         struct {
				ID string `json:"_id"`
			}
		}
	}
	bad := json.Unmarshal(body, &message)
	id, header := strings.TrimSpace(message.ID), message.Header
	place := cmp.Or(header.ConversationID, header.ChannelSessionID, header.Customer.ID)
	if bad != nil || min(len(id), len(place)) == 0 || max(len(id), len(place)) > 255 { // what AMQP takes
		return 6, file + ": no JSON message with an id, the same whenever it is sent, and a place, of at most 255 bytes"
	}
	address, bad := amqp.ParseURI(url)
	if bad != nil {
		return 2, bad.Error()
	}
	for _, pause := range []time.Duration{0, 1, 2, 4, 8, 16} {
		time.Sleep(pause * time.Second)
		told, err := send(address.Username, body, id, place)
		var refusal *amqp.Error
		switch {
		case err == errReturned, errors.As(err, &refusal) && (refusal.Code == amqp.AccessRefused || refusal.Code == amqp.NotFound):
			return 2, "not published: " + err.Error()
		case err != nil: // unreachable or lost: whether it arrived is unknown, so send again
			continue
		case told == nil:
			return 5, "no receipt in time; the message is safe in the queue"
		}
		fmt.Println("receipt", told.Outcome, cmp.Or(told.Code, told.Reason, told.EventID))
		return map[string]int{"dead": 6}[told.Outcome], ""
	}
	return 3, "the broker at " + address.Host + " is away"
}

func main() {
	code, sentence := publish(append(os.Args, "")[1])
	if sentence != "" {
		fmt.Fprintln(os.Stderr, sentence)
	}
	os.Exit(code)
}
