package deja

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// These values are on disks: a change of any of them makes every derived message a new one.
func TestDerivedIDsAreFrozen(t *testing.T) {
	stream := Stream{Aggregate: "account", Key: "42"}
	v7, err := ParseID("0190163d-8694-739b-aea5-966c26f8ad91")
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		got  ID
		want string
	}{
		"a name":                 {DeriveID("berka/transaction", "171812"), goldenName},
		"from a cause of v8":     {derivedID("bank", stream, DeriveID("a", "b"), "account.deposited", 0), goldenV8},
		"the second of its type": {derivedID("bank", stream, DeriveID("a", "b"), "account.deposited", 1), goldenSecond},
		"from a cause of v7":     {derivedID("bank", stream, v7, "account.deposited", 0), goldenV7},
	} {
		if c.got.String() != c.want {
			t.Errorf("%s: got %s, frozen as %s", what, c.got, c.want)
		}
		if err := c.got.Valid(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestADerivedIDTakesTheTimeOfAV7Cause(t *testing.T) {
	stream := Stream{Aggregate: "account", Key: "42"}
	cause := NewID()
	id := derivedID("bank", stream, cause, "account.deposited", 0)
	if id.Version() != 7 || !slices.Equal(id[:6], cause[:6]) {
		t.Errorf("from the v7 cause %s came %s", cause, id)
	}
	if id := derivedID("bank", stream, DeriveID("a", "b"), "account.deposited", 0); id.Version() != 8 {
		t.Errorf("from a v8 cause came %s", id)
	}
}

// Each part of the emission's identity must tell ids apart: an index alone collides between two aggregates that
// handle one cause, and shifts when a build inserts an emission.
func TestDerivedIDsTellEmissionsApart(t *testing.T) {
	cause := DeriveID("a", "b")
	base := func() (string, Stream, ID, string, int) {
		return "bank", Stream{Aggregate: "account", Key: "42"}, cause, "account.deposited", 0
	}
	seen := map[ID]string{}
	add := func(what string, service string, s Stream, c ID, typ string, nth int) {
		id := derivedID(service, s, c, typ, nth)
		if other, taken := seen[id]; taken {
			t.Errorf("%s and %s have the same id %s", what, other, id)
		}
		seen[id] = what
	}
	service, s, c, typ, nth := base()
	add("the emission", service, s, c, typ, nth)
	add("another service's", "books", s, c, typ, nth)
	add("another cause's", service, s, DeriveID("a", "c"), typ, nth)
	add("another type's", service, s, c, "account.withdrawn", nth)
	add("the next of its type", service, s, c, typ, nth+1)
	s.Key = "43"
	add("another key's", service, s, c, typ, nth)
	s.Key, s.Aggregate = "42", "ledger"
	add("another aggregate's", service, s, c, typ, nth)
	s.Aggregate, s.Tenant = "account", "acme"
	add("another tenant's", service, s, c, typ, nth)
}

func TestParseID(t *testing.T) {
	good := "0190163d-8694-739b-aea5-966c26f8ad91"
	for _, text := range []string{good, strings.ToUpper(good), "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "f47ac10b-58cc-4372-a567-0e02b2c3d479"} {
		id, err := ParseID(text)
		if err != nil || id.String() != strings.ToLower(text) {
			t.Errorf("ParseID(%q) = %s, %v", text, id, err)
		}
	}
	for _, text := range []string{
		"", "nonsense", good[:35], good + "0", "{" + good + "}", "urn:uuid:" + good, strings.ReplaceAll(good, "-", ""),
		"0190163d-8694-739b-aea5-966c26f8adzz",
		"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
		"0190163d-8694-039b-aea5-966c26f8ad91", // version 0
		"0190163d-8694-939b-aea5-966c26f8ad91", // version 9
		"0190163d-8694-739b-2ea5-966c26f8ad91", // another variant
	} {
		if id, err := ParseID(text); err == nil || !id.IsZero() {
			t.Errorf("ParseID(%q) = %s, %v; want an error", text, id, err)
		}
	}
}

func TestNewIDsSortByTime(t *testing.T) {
	before := time.Now().UnixMilli()
	id := NewID()
	after := time.Now().UnixMilli()
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	if id.Version() != 7 || id.Valid() != nil || ms < before || ms > after {
		t.Errorf("%s has version %d and time %d, want 7 and %d to %d", id, id.Version(), ms, before, after)
	}
	if id == NewID() {
		t.Error("two new ids are equal")
	}
}

func TestIDText(t *testing.T) {
	id := NewID()
	text, err := id.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var back ID
	if err := back.UnmarshalText(text); err != nil || back != id {
		t.Errorf("%s came back as %s, %v", id, back, err)
	}
	if err := back.UnmarshalText(nil); err != nil || !back.IsZero() {
		t.Errorf("the empty text gives %s, %v", back, err)
	}
}

const (
	goldenName   = "dd170202-fb3b-8e2f-88e1-08f7227a5bbd"
	goldenV8     = "c513b863-2335-8166-9b17-c7d641f14104"
	goldenSecond = "08ed4572-d703-8dcb-a61c-ba4c1aa2423e"
	goldenV7     = "0190163d-8694-7c59-b70e-3bf62f70d799"
)

func TestPositionsAreReadAsTheyAreWritten(t *testing.T) {
	for _, p := range []Position{{}, {Topic: "bank.inbox", Partition: 3, Offset: 1 << 40}} {
		text, err := p.MarshalText()
		var back Position
		if err := errors.Join(err, back.UnmarshalText(text)); err != nil || back != p {
			t.Errorf("%q: %v, %v", text, back, err)
		}
	}
	for _, text := range []string{"bank.inbox", "bank.inbox:0", ":0:1", "a:b:1", "a:1:b", "a:1:2:3", "a:4294967296:1"} {
		if err := new(Position).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}
