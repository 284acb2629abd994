// Publishes the CIM message in a file and says what became of it: go run publish.go message.json
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var errReturned = errors.New("no queue took it")

type message struct {
	ID     string
	Header struct {
		ConversationID, ChannelSessionID string
		Customer                         struct {
			ID string `json:"_id"`
		}
	}
}
type receipt struct{ Outcome, Code, Reason, EventID string }

// send publishes once, on a connection of its own, and returns the receipt, or nil if there was none in time.
func send(url string, body []byte, id, place string, wait time.Duration) (*receipt, error) {
	connection, err := amqp.Dial(url)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return nil, err
	}
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	// Receipts come back on this channel, to nobody else, and no queue has to be made for them.
	answers, err := channel.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	if err := channel.Confirm(false); err != nil {
		return nil, err
	}
	address, err := amqp.ParseURI(url)
	if err != nil {
		return nil, err
	}
	confirm, err := channel.PublishWithDeferredConfirm("cim.ingress", place, true, false, amqp.Publishing{
		ContentType:   "application/json",
		DeliveryMode:  amqp.Persistent,
		MessageId:     id,
		CorrelationId: id,
		ReplyTo:       "amq.rabbitmq.reply-to",
		UserId:        address.Username, // checked by the broker: proves who published
		Body:          body,
	})
	if err != nil {
		return nil, err
	}
	if !confirm.Wait() {
		return nil, <-closed
	}
	select { // a returned message is confirmed, too, and comes back before its confirm
	case <-returned:
		return nil, errReturned
	default:
		fmt.Println("confirmed", id)
	}
	for deadline := time.After(wait); ; {
		select {
		case answer, open := <-answers:
			if !open {
				return nil, <-closed
			}
			if answer.CorrelationId == id {
				var told receipt
				return &told, json.Unmarshal(answer.Body, &told)
			}
		case <-deadline:
			return nil, nil
		}
	}
}

// isFinal tells whether sending again is in vain: a refusal, such as a missing right, or no queue.
func isFinal(err error) bool {
	var told *amqp.Error
	return err == errReturned || errors.As(err, &told) && (told.Code == amqp.AccessRefused || told.Code == amqp.NotFound)
}

// end ends with the exit code that `cim-worker publish` would give, and one sentence.
func end(code int, sentence ...any) {
	fmt.Fprintln(os.Stderr, sentence...)
	os.Exit(code)
}

func main() {
	file := append(os.Args, "")[1]
	body, err := os.ReadFile(file) // sent as it is, again and again: the same bytes are the same activity
	if err != nil {
		end(2, "name a file with a message:", err)
	}
	var sent message
	err = json.Unmarshal(body, &sent)
	id := strings.TrimSpace(sent.ID)
	if err != nil || id == "" || len(id) > 255 { // what AMQP takes
		end(6, file+": no JSON message with a text of at most 255 bytes as its id, the same whenever it is sent again")
	}
	place := cmp.Or(sent.Header.ConversationID, sent.Header.ChannelSessionID, sent.Header.Customer.ID, "unknown")
	seconds, _ := strconv.Atoi(cmp.Or(os.Getenv("RECEIPT_SECONDS"), "30"))
	url, wait := cmp.Or(os.Getenv("CIM_RABBITMQ_URL"), "amqp://localhost:5672/"), time.Duration(seconds)*time.Second
	told, err := send(url, body, id, place, wait)
	for pause := time.Second; err != nil && !isFinal(err) && pause <= 16*time.Second; pause *= 2 {
		time.Sleep(pause) // unreachable or lost: whether it arrived is unknown, so send again
		told, err = send(url, body, id, place, wait)
	}
	switch {
	case isFinal(err):
		end(2, "not published:", err)
	case err != nil:
		end(3, "the broker is away:", err)
	case told == nil:
		end(5, "no receipt in time; the message is safe in the queue")
	}
	fmt.Println("receipt", told.Outcome, cmp.Or(told.Code, told.Reason, told.EventID))
	if told.Outcome == "dead" {
		os.Exit(6)
	}
}
