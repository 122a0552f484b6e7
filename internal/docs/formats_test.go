package docs_test

import (
	"encoding/hex"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// declared is a field of a message in docs/formats.md.
type declared struct {
	name, kind string
	repeated   bool
}

// schema reads the messages of the .proto text in docs/formats.md.
func schema(t *testing.T) map[string]map[protowire.Number]declared {
	t.Helper()
	found := blocks(pages(t)["docs/formats.md"], "proto")
	if len(found) != 1 {
		t.Fatalf("docs/formats.md has %d blocks of .proto", len(found))
	}
	head := regexp.MustCompile(`^message (\w+) \{`)
	row := regexp.MustCompile(`^\s+(repeated )?(\w+)\s+(\w+)\s*=\s*(\d+);`)
	messages := map[string]map[protowire.Number]declared{}
	var fields map[protowire.Number]declared
	for line := range strings.Lines(found[0]) {
		if m := head.FindStringSubmatch(line); m != nil {
			fields = map[protowire.Number]declared{}
			messages[m[1]] = fields
		}
		if m := row.FindStringSubmatch(line); m != nil {
			n, err := strconv.Atoi(m[4])
			if err != nil {
				t.Fatal(err)
			}
			if _, twice := fields[protowire.Number(n)]; twice {
				t.Errorf("field %d is declared twice", n)
			}
			fields[protowire.Number(n)] = declared{m[3], m[2], m[1] != ""}
		}
	}
	return messages
}

// The golden files hold each field that is ever written: the schema must have them all, and no other.
func TestSchemaIsThatOfTheGoldenFiles(t *testing.T) {
	messages := schema(t)
	met := map[string]bool{}
	for file, message := range map[string]string{
		"message_full": "Message", "message_least": "Message", "message_sent": "Message",
		"record_full": "Record", "record_least": "Record", "record_marker": "Record", "record_sent": "Record",
		"open_full": "Open", "open_least": "Open",
	} {
		walk(t, messages, message, golden(t, file), met)
	}
	for message, fields := range messages {
		for n, f := range fields {
			if at := message + "." + f.name; !met[at] {
				t.Errorf("%s = %d is in docs/formats.md, and in no golden file", at, n)
			}
		}
	}
}

// walk checks that data is a message of the schema, and notes the fields it meets.
func walk(t *testing.T, messages map[string]map[protowire.Number]declared, message string, data []byte, met map[string]bool) {
	t.Helper()
	seen := map[protowire.Number]bool{}
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			t.Fatalf("%s: no protocol buffer", message)
		}
		f, ok := messages[message][num]
		if !ok {
			t.Fatalf("%s has field %d, which docs/formats.md lacks", message, num)
		}
		if seen[num] && !f.repeated {
			t.Errorf("%s.%s comes twice and is not repeated", message, f.name)
		}
		seen[num], met[message+"."+f.name] = true, true
		data = data[n:]
		switch typ {
		case protowire.VarintType:
			_, n = protowire.ConsumeVarint(data)
			if f.kind != "uint32" && f.kind != "uint64" {
				t.Errorf("%s.%s is a varint, not %s", message, f.name, f.kind)
			}
		case protowire.BytesType:
			var b []byte
			b, n = protowire.ConsumeBytes(data)
			if _, sub := messages[f.kind]; sub {
				walk(t, messages, f.kind, b, met)
			} else if f.kind != "bytes" && f.kind != "string" {
				t.Errorf("%s.%s is bytes, not %s", message, f.name, f.kind)
			}
		default:
			t.Fatalf("%s.%s has wire type %d", message, f.name, typ)
		}
		data = data[n:]
	}
}

// golden reads the bytes of a golden file, which is a dump of them.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(root + "/internal/wire/testdata/" + name + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	for line := range strings.Lines(string(text)) {
		if len(line) < 60 {
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(line[10:58], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, b...)
	}
	return data
}
