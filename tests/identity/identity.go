// Works out event ids. Each line of standard input: a body in Base64, and a key or nothing.
// Prints the message id in Base64, the event id and the canonical content in Base64 for each. Run: go run identity.go
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
)

func main() {
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if line = strings.TrimRight(line, "\n"); line != "" {
			encoded, key, _ := strings.Cut(line, " ")
			body, broken := base64.StdEncoding.DecodeString(encoded)
			check(broken)
			identify(body, key)
		}
		if err != nil {
			return
		}
	}
}

func identify(body []byte, key string) {
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(body, []byte("\ufeff"))))
	decoder.UseNumber() // keeps a number as it was spelled
	var message map[string]any
	check(decoder.Decode(&message))
	var out strings.Builder
	write(&out, message)
	content := out.String()
	id, _ := message["id"].(string)
	if strings.TrimSpace(id) == "" {
		id = digits(content)
	}
	sender := message["header"].(map[string]any)["sender"].(map[string]any)["id"].(string)
	event := digits(sender + "\x00" + id + "\x00" + content)
	if strings.TrimSpace(key) != "" {
		event = digits(sender + "\x00\x00" + key)
	}
	fmt.Println(base64.StdEncoding.EncodeToString([]byte(id)), event, base64.StdEncoding.EncodeToString([]byte(content)))
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
		sort.Strings(names) // by their bytes, which is the order of code points
		separator := "{"
		for _, name := range names {
			out.WriteString(separator)
			writeText(out, name)
			out.WriteString(":")
			write(out, value[name])
			separator = ","
		}
		if len(names) == 0 {
			out.WriteString("{")
		}
		out.WriteString("}")
	case []any:
		separator := "["
		for _, item := range value {
			out.WriteString(separator)
			write(out, item)
			separator = ","
		}
		if len(value) == 0 {
			out.WriteString("[")
		}
		out.WriteString("]")
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

// encoding/json escapes <, >, &, U+007F, U+2028 and U+2029 too, so texts are written here.
func writeText(out *strings.Builder, text string) {
	out.WriteByte('"')
	for i := 0; i < len(text); i++ {
		c := text[i]
		if place := strings.IndexByte("\"\\\b\t\n\f\r", c); place >= 0 {
			out.WriteByte('\\')
			out.WriteByte("\"\\btnfr"[place])
		} else if c < 0x20 {
			fmt.Fprintf(out, "\\u%04x", c)
		} else {
			out.WriteByte(c)
		}
	}
	out.WriteByte('"')
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
