package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var update = flag.Bool("update", false, "write the golden files anew: only for a new format version")

// golden compares bytes with those of a file, which is frozen: what is on users' disks must stay readable.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(got)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if hex.Dump(got) != string(want) {
		t.Errorf("%s: the encoding changed, and the format is frozen; got\n%swant\n%s", name, hex.Dump(got), want)
	}
}

var (
	at       = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	business = time.Date(1993, 1, 5, 0, 0, 0, 0, time.UTC)
	stream   = deja.Stream{Tenant: "acme", Aggregate: "account", Key: "576"}
)

func fullMessage() *deja.Envelope {
	return &deja.Envelope{
		ID: deja.DeriveID("t", "1"), Kind: deja.KindCommand, Type: "account.open.v2", Stream: stream, Source: "shop",
		Actor: "ana", BusinessTime: business, CausationID: deja.DeriveID("t", "2"), CorrelationID: deja.DeriveID("t", "3"),
		ContentType: "application/json", Headers: map[string]string{"traceparent": "00-ab-cd-01", "a": "b"},
		Payload: []byte(`{"owner":"ana"}`),
	}
}

func fullRecord() *Record {
	cause := *fullMessage()
	cause.Payload = nil
	cause.Position = deja.Position{Topic: "bank.inbox", Partition: 2, Offset: 41}
	own := func(e deja.Envelope) deja.Envelope {
		e.Source, e.Actor, e.BusinessTime = "bank", cause.Actor, business
		e.CausationID, e.CorrelationID, e.ContentType = cause.ID, cause.CorrelationID, "application/json"
		return e
	}
	event := func(n string, version int64) deja.Envelope {
		return own(deja.Envelope{
			ID: deja.DeriveID("e", n), Kind: deja.KindEvent, Type: "account.opened.v2", Stream: stream, Version: version,
			Payload: []byte(`{"n":` + n + `}`), Time: at, Position: cause.Position,
		})
	}
	return &Record{
		Kind: KindDecision, N: 7, Prev: Hash([]byte("6")), Incarnation: driver.Incarnation{Number: 3, Nonce: [16]byte{1, 2, 3}},
		Cause: cause, Hash: Hash([]byte("content")), Covers: 42,
		Decided: deja.Decided{
			Status: deja.Applied, Reason: deja.Rejection{Code: "code", Detail: "detail"},
			Events: []deja.Envelope{event("1", 4), event("2", 5)},
			Commands: []deja.Envelope{own(deja.Envelope{
				ID: deja.DeriveID("c", "1"), Kind: deja.KindCommand, Type: "ledger.post", Payload: []byte(`{}`),
				Stream: deja.Stream{Tenant: "acme", Aggregate: "ledger", Key: "t1"}, Sender: stream,
			})},
			Timers: []deja.Timer{{Name: "time-out", Due: at.Add(time.Hour), Command: own(deja.Envelope{
				ID: deja.DeriveID("t", "9"), Kind: deja.KindCommand, Type: "account.expire", Stream: stream, Payload: []byte(`{}`),
			})}},
			Cancelled: []string{"other"},
			Effects: []deja.Envelope{own(deja.Envelope{
				ID: deja.DeriveID("f", "1"), Kind: deja.KindEffect, Type: "receipt.send", Stream: stream, Payload: []byte(`{}`),
			})},
		},
		Version: 5, Writes: Hash([]byte("writes")), Time: at, Build: "abc/go1.26/amd64", Fold: "0123456789abcdef",
		First: 12, FirstIn: 3, Paths: []string{"amount", "@type"}, Act: deja.DeriveID("act", "1"),
	}
}

// sentMessage is a command that an instance of an aggregate sent.
func sentMessage() *deja.Envelope {
	m := fullMessage()
	m.Sender = deja.Stream{Tenant: m.Stream.Tenant, Aggregate: "transfer", Key: "t1"}
	return m
}

// sentRecord is the decision of such a command: it keeps the payload, which is part of the reply.
func sentRecord() *Record {
	r := fullRecord()
	r.Cause = *sentMessage()
	r.Cause.Position = deja.Position{Topic: "bank.inbox", Partition: 2, Offset: 41}
	return r
}

func TestAMessageComesBackAsItWas(t *testing.T) {
	for name, m := range map[string]*deja.Envelope{
		"message_full": fullMessage(),
		"message_sent": sentMessage(),
		"message_least": {
			ID: deja.DeriveID("t", "1"), Kind: deja.KindCommand, Type: "account.open", Source: "bank",
			Stream: deja.Stream{Aggregate: "account", Key: "1"},
		},
	} {
		data := AppendMessage(nil, m)
		golden(t, name, data)
		back, err := NewDecoder("bank").Message(data)
		if err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%s came back as %+v, %v; was %+v", name, back, err, m)
		}
	}
}

func TestARecordComesBackAsItWas(t *testing.T) {
	least := &Record{
		Kind: KindDecision, N: 1, Prev: Genesis("bank", 2), Cause: deja.Envelope{ID: deja.DeriveID("t", "1"), Position: deja.Position{Topic: "bank.inbox", Partition: 2}},
		Decided: deja.Decided{Status: deja.DeadLetter}, Time: at,
	}
	marker := &Record{
		Kind: KindMarker, N: 9, Prev: Hash([]byte("9")), Time: at, Build: "abc/go1.26/amd64",
		Incarnation: driver.Incarnation{Number: 4, Nonce: [16]byte{9}},
		Cause:       deja.Envelope{Position: deja.Position{Topic: "bank.inbox", Partition: 2}},
	}
	for name, r := range map[string]*Record{"record_full": fullRecord(), "record_sent": sentRecord(), "record_least": least, "record_marker": marker} {
		data := AppendRecord(nil, r)
		golden(t, name, data)
		back, err := NewDecoder("bank").Record(2, data)
		if err != nil || !reflect.DeepEqual(back, r) {
			t.Errorf("%s came back as\n%+v, %v; was\n%+v", name, back, err, r)
		}
	}
}

func TestOtherRecordsAreRefused(t *testing.T) {
	good := AppendRecord(nil, fullRecord())
	newer := bytes.Clone(good)
	newer[1] = Format + 1
	for what, data := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "JSON": []byte(`{"n":1}`), "a newer format": newer,
		"a torn record": good[:len(good)/2], "only the format": good[:2:2], "no outcome": AppendRecord(nil, &Record{Kind: KindDecision, N: 1, Cause: deja.Envelope{ID: deja.NewID()}}),
		"an unknown kind": AppendRecord(nil, &Record{Kind: 3, N: 1}),
	} {
		if r, err := NewDecoder("bank").Record(0, data); err == nil {
			t.Errorf("%s was decoded as %+v", what, r)
		}
	}
	if _, err := NewDecoder("bank").Record(0, newer); err == nil || !strings.Contains(err.Error(), "newer build") {
		t.Errorf("a newer format: %v; want what to do", err)
	}
}

func TestUnknownFieldsArePassedOver(t *testing.T) {
	w := writer(AppendMessage(nil, fullMessage()))
	w.string(900, "from a newer build")
	back, err := NewDecoder("bank").Message(w)
	if err != nil || !reflect.DeepEqual(back, fullMessage()) {
		t.Errorf("got %+v, %v", back, err)
	}
}

func TestContentHashIsFrozen(t *testing.T) {
	h, err := ContentHash(fullMessage())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "content_hash", h[:])
}

// What belongs to the content changes the hash; what a retry may do otherwise does not.
func TestContentHash(t *testing.T) {
	base, err := ContentHash(fullMessage())
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*deja.Envelope){
		"tenant":         func(e *deja.Envelope) { e.Stream.Tenant = "other" },
		"aggregate":      func(e *deja.Envelope) { e.Stream.Aggregate = "ledger" },
		"key":            func(e *deja.Envelope) { e.Stream.Key = "577" },
		"source":         func(e *deja.Envelope) { e.Source = "other" },
		"kind":           func(e *deja.Envelope) { e.Kind = deja.KindReply },
		"type":           func(e *deja.Envelope) { e.Type = "account.close" },
		"version":        func(e *deja.Envelope) { e.Type = "account.open.v3" },
		"cause":          func(e *deja.Envelope) { e.CausationID = deja.DeriveID("x", "y") },
		"business time":  func(e *deja.Envelope) { e.BusinessTime = e.BusinessTime.Add(time.Microsecond) },
		"payload":        func(e *deja.Envelope) { e.Payload = []byte(`{"owner":"bob"}`) },
		"a large amount": func(e *deja.Envelope) { e.Payload = []byte(`{"owner":"ana","n":9007199254740993}`) },
		"its neighbour":  func(e *deja.Envelope) { e.Payload = []byte(`{"owner":"ana","n":9007199254740992}`) },
	} {
		e := fullMessage()
		change(e)
		if h, err := ContentHash(e); h == base || err != nil {
			t.Errorf("another %s has the same hash (%v)", what, err)
		}
	}
	a, b := fullMessage(), fullMessage()
	a.Payload, b.Payload = []byte(`{"n":9007199254740993}`), []byte(`{"n":9007199254740992}`)
	ha, _ := ContentHash(a)
	if hb, _ := ContentHash(b); ha == hb {
		t.Error("9007199254740993 and …992 hash alike")
	}
	for what, change := range map[string]func(*deja.Envelope){
		"actor":         func(e *deja.Envelope) { e.Actor = "bob" },
		"headers":       func(e *deja.Envelope) { e.Headers = nil },
		"append time":   func(e *deja.Envelope) { e.Time = at },
		"position":      func(e *deja.Envelope) { e.Position.Offset = 9 },
		"correlation":   func(e *deja.Envelope) { e.CorrelationID = deja.NewID() },
		"white space":   func(e *deja.Envelope) { e.Payload = []byte(" { \"owner\" : \"ana\" } ") },
		"an escape":     func(e *deja.Envelope) { e.Payload = []byte(`{"owner":"\u0061na"}`) },
		"the time zone": func(e *deja.Envelope) { e.BusinessTime = e.BusinessTime.In(time.FixedZone("x", 3600)) },
	} {
		e := fullMessage()
		change(e)
		if h, err := ContentHash(e); h != base || err != nil {
			t.Errorf("another %s has another hash (%v)", what, err)
		}
	}
}

func TestAPayloadWithoutCanonicalFormIsMalformed(t *testing.T) {
	for _, payload := range []string{`{"a":1,"a":2}`, `{"a":1,"A":2}`, `{"a":1.5}`, `{"a":1e3}`, `{"a":-0}`, `{`, ``, `{} {}`, "{\"a\":\"\xff\"}"} {
		e := fullMessage()
		e.Payload = []byte(payload)
		if _, err := ContentHash(e); err == nil {
			t.Errorf("payload %q has a canonical form", payload)
		}
	}
}

func TestLedgerKey(t *testing.T) {
	e := fullMessage()
	e.Stream.Tenant, e.Source = "", "bank"
	if k := LedgerKey("bank", e); k != e.ID {
		t.Errorf("of the default tenant and source: %s, want the id %s", k, e.ID)
	}
	seen := map[deja.ID]bool{e.ID: true}
	for _, who := range [][2]string{{"", "shop"}, {"acme", "bank"}, {"acme", "shop"}, {"a", "cmeshop"}} {
		e.Stream.Tenant, e.Source = who[0], who[1]
		if k := LedgerKey("bank", e); seen[k] {
			t.Errorf("tenant %q, source %q: key %s is another sender's", who[0], who[1], k)
		} else {
			seen[k] = true
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(AppendRecord(nil, fullRecord()))
	f.Add(AppendMessage(nil, fullMessage()))
	f.Add(AppendRecord(nil, sentRecord()))
	f.Add(AppendMessage(nil, sentMessage()))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := NewDecoder("bank")
		if m, err := d.Message(data); err == nil {
			again, err := d.Message(AppendMessage(nil, m))
			if err != nil || !reflect.DeepEqual(again, m) {
				t.Errorf("message %+v came back as %+v, %v", m, again, err)
			}
		}
		if r, err := d.Record(0, data); err == nil {
			if _, err := d.Record(0, AppendRecord(nil, r)); err != nil {
				t.Errorf("record %+v: %v", r, err)
			}
		}
	})
}
