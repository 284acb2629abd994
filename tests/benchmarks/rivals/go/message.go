package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
)

// message is a valid one, with the places that it names.
type message struct {
	id, eventID                     string
	conversation, session, customer string
	body                            []byte
	parsed                          map[string]any
}

// invalid says why a body is no message, in the words of the contract.
type invalid struct{ code, pointer, id string }

// read checks sender, body and anchor, and works out the event's id from the canonical content.
func read(body []byte) (*message, *invalid) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var parsed map[string]any
	if decoder.Decode(&parsed) != nil {
		return nil, &invalid{"invalid_json", "", ""}
	}
	id := text(parsed, "id")
	header, sender := object(parsed, "header"), object(object(parsed, "header"), "sender")
	m := &message{
		id:           id,
		conversation: text(header, "conversationId"),
		session:      text(header, "channelSessionId"),
		customer:     text(object(header, "customer"), "_id"),
		body:         body,
		parsed:       parsed,
	}
	switch {
	case sender == nil:
		return nil, &invalid{"missing_sender", "/header/sender", id}
	case text(sender, "id") == "":
		return nil, &invalid{"missing_sender_id", "/header/sender/id", id}
	case text(sender, "type") == "":
		return nil, &invalid{"invalid_value", "/header/sender/type", id}
	case text(object(parsed, "body"), "type") == "":
		return nil, &invalid{"missing_body", "/body", id}
	case m.conversation == "" && m.session == "" && m.customer == "":
		return nil, &invalid{"missing_anchor", "/header", id}
	}
	var content strings.Builder
	write(&content, parsed)
	if m.id == "" {
		m.id = digits(content.String())
	}
	m.eventID = digits(text(sender, "id") + "\x00" + m.id + "\x00" + content.String())
	return m, nil
}

func object(parent map[string]any, name string) map[string]any {
	child, _ := parent[name].(map[string]any)
	return child
}

func text(parent map[string]any, name string) string {
	child, _ := parent[name].(string)
	return strings.TrimSpace(child)
}

func digits(text string) string {
	hash := sha256.Sum256([]byte(text))
	return hex.EncodeToString(hash[:12])
}

func write(out *strings.Builder, value any) {
	switch value := value.(type) {
	case map[string]any:
		names := make([]string, 0, len(value))
		for name := range value {
			names = append(names, name)
		}
		sort.Strings(names)
		out.WriteByte('{')
		for i, name := range names {
			if i > 0 {
				out.WriteByte(',')
			}
			writeText(out, name)
			out.WriteByte(':')
			write(out, value[name])
		}
		out.WriteByte('}')
	case []any:
		out.WriteByte('[')
		for i, item := range value {
			if i > 0 {
				out.WriteByte(',')
			}
			write(out, item)
		}
		out.WriteByte(']')
	case string:
		writeText(out, value)
	case json.Number:
		out.WriteString(value.String())
	case bool:
		fmt.Fprint(out, value)
	default:
		out.WriteString("null")
	}
}

// encoding/json escapes more than the canonical content does.
func writeText(out *strings.Builder, text string) {
	out.WriteByte('"')
	plain := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		out.WriteString(text[plain:i])
		plain = i + 1
		if place := strings.IndexByte("\"\\\b\t\n\f\r", c); place >= 0 {
			out.WriteByte('\\')
			out.WriteByte("\"\\btnfr"[place])
		} else {
			fmt.Fprintf(out, "\\u%04x", c)
		}
	}
	out.WriteString(text[plain:])
	out.WriteByte('"')
}
