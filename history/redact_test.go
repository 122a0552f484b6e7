package history

import (
	"errors"
	"strings"
	"testing"

	"github.com/dejalog/deja"
)

func TestTextsAreRedactedAndAllElseStays(t *testing.T) {
	r := &Redaction{Key: []byte("0123456789abcdef"), Fields: []string{"a.b.name", "*.who.mail", "a.b.list"}}
	h := r.hash
	for in, want := range map[string]string{
		`{"name":"ana","n":1}`:                             `{"name":"` + h("ana") + `","n":1}`,
		`{ "x" : {"name":"no"}, "name" : "an\"a" , "z":2}`: `{ "x" : {"name":"no"}, "name" : "` + h(`an"a`) + `" , "z":2}`,
		`{"who":[{"mail":"m"},{"mail":"n","k":3}]}`:        `{"who":[{"mail":"` + h("m") + `"},{"mail":"` + h("n") + `","k":3}]}`,
		`{"list":["p","q",[]],"name":""}`:                  `{"list":["` + h("p") + `","` + h("q") + `",[]],"name":""}`,
		`{"name":null,"other":{"a":[1,{"b":2}]}}`:          `{"name":null,"other":{"a":[1,{"b":2}]}}`,
		`{"a":{"b":{}},"name":"ana"}`:                      `{"a":{"b":{}},"name":"` + h("ana") + `"}`,
		`{}`:                                               `{}`,
	} {
		env := &deja.Envelope{Type: "a.b", ContentType: "application/json", Payload: []byte(in)}
		if err := r.payload(env, replaced{}); err != nil || string(env.Payload) != want {
			t.Errorf("%s: got %s (%v), want %s", in, env.Payload, err, want)
		}
	}
	env := &deja.Envelope{Type: "a.b", ContentType: "application/json", Payload: []byte(`{"name":7}`)}
	if err := r.payload(env, replaced{}); !errors.Is(err, ErrRedaction) || !strings.Contains(err.Error(), "name is no text") {
		t.Errorf("a number: %v", err)
	}
	other := &Redaction{Key: []byte("0123456789abcdeX")}
	if other.hash("ana") == h("ana") || h("ana") == h("anb") {
		t.Error("hashes must tell texts apart, and keys")
	}
}
