package deja

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Command is a payload that asks an aggregate for something. Its wire name is <aggregate>.<word>, with .vN behind
// it from schema version 2 on; it goes to the aggregate in its name. CommandType is called on a zero value (a nil
// pointer for pointer types) and must return a constant.
type Command interface{ CommandType() string }

// An Event is a payload that states a fact which an aggregate recorded. Its wire name has the form of a command's.
type Event interface{ EventType() string }

// An Effect is a payload that asks for a call outside the service. Its wire name has the form of a command's.
type Effect interface{ EffectType() string }

// Kind tells what sort of message an envelope carries.
type Kind uint8

// The kinds of message. Their numbers are part of the recorded format.
const (
	KindCommand Kind = 1 + iota // a request that may be accepted or rejected
	KindEvent                   // a fact that an aggregate recorded
	KindReply                   // how a sent command was settled
	KindTimer                   // a timer that fired
	KindResult                  // an effect's result
	KindAct                     // an operator's act: retry or skip
	KindEffect                  // a requested effect
)

var kindNames = [...]string{"", "command", "event", "reply", "timer", "result", "act", "effect"}

// String returns the kind's word, such as "command".
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindNames) {
		return "kind(" + strconv.Itoa(int(k)) + ")"
	}
	return kindNames[k]
}

// The wire names of an operator's acts on the oldest parked message of a key. Their payload is an [Act].
const (
	ActRetry = "deja.retry" // decide it again, then the messages parked behind it
	ActSkip  = "deja.skip"  // give it up as dead, then decide those parked behind it
)

// An Act is the payload of [ActRetry] and [ActSkip].
type Act struct {
	Message ID     `json:"message"`          // the parked message: the oldest of its key
	Reason  string `json:"reason,omitempty"` // why, for the record
}

// A Stream names one instance of an aggregate: the unit of order and of state.
type Stream struct {
	Tenant    string // "" for services without tenants
	Aggregate string
	Key       string // non-empty; any text without control characters
}

// String returns aggregate/key, with tenant: in front where there is one.
func (s Stream) String() string {
	if s.Tenant == "" {
		return s.Aggregate + "/" + s.Key
	}
	return s.Tenant + ":" + s.Aggregate + "/" + s.Key
}

// Compare orders streams by tenant, aggregate and key, byte by byte: the order in which stores lock and list them.
func (s Stream) Compare(t Stream) int {
	return cmp.Or(strings.Compare(s.Tenant, t.Tenant), strings.Compare(s.Aggregate, t.Aggregate), strings.Compare(s.Key, t.Key))
}

// ParseStream reads what String wrote.
func ParseStream(text string) (Stream, error) {
	head, key, ok := strings.Cut(text, "/")
	if !ok {
		return Stream{}, fmt.Errorf("parse stream %q: want <aggregate>/<key>, such as account/42", text)
	}
	s := Stream{Aggregate: head, Key: key}
	if tenant, agg, ok := strings.Cut(head, ":"); ok {
		s.Tenant, s.Aggregate = tenant, agg
	}
	if err := s.Valid(); err != nil {
		return Stream{}, fmt.Errorf("parse stream %q: %w", text, err)
	}
	return s, nil
}

// maxKey bounds what becomes part of every record and index of a key.
const maxKey = 512

// Valid returns nil if s can name an aggregate's instance.
func (s Stream) Valid() error {
	if !validName(s.Aggregate) {
		return fmt.Errorf("aggregate name %q: want lower-case letters, digits, '-', '_' and '.'", s.Aggregate)
	}
	if s.Key == "" {
		return errors.New("the key is empty")
	}
	if len(s.Key) > maxKey || len(s.Tenant) > maxKey {
		return fmt.Errorf("key and tenant may have %d bytes each, got %d and %d", maxKey, len(s.Key), len(s.Tenant))
	}
	if !plain(s.Key) || !plain(s.Tenant) || strings.ContainsAny(s.Tenant, ":/") {
		return fmt.Errorf("key %q or tenant %q holds a control character or is not UTF-8, or the tenant holds ':' or '/'", s.Key, s.Tenant)
	}
	return nil
}

// A Position is a place in a log, a total order inside one partition.
type Position struct {
	Topic     string
	Partition int32
	Offset    int64
}

// String returns topic:partition:offset; the zero Position gives "".
func (p Position) String() string {
	if p == (Position{}) {
		return ""
	}
	return p.Topic + ":" + strconv.Itoa(int(p.Partition)) + ":" + strconv.FormatInt(p.Offset, 10)
}

// MarshalText returns what String returns.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText returned.
func (p *Position) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = Position{}
		return nil
	}
	f := strings.Split(string(text), ":")
	if len(f) == 3 && f[0] != "" {
		partition, err1 := strconv.ParseInt(f[1], 10, 32)
		offset, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 == nil && err2 == nil {
			*p = Position{f[0], int32(partition), offset}
			return nil
		}
	}
	return fmt.Errorf("position %q: want <topic>:<partition>:<offset>, such as bank.inbox:0:1234", text)
}

// An Envelope is a message: what it carries beside its payload, and the payload's bytes. It is immutable: who is
// handed one must not change it, nor the bytes and the map it refers to.
type Envelope struct {
	ID            ID
	Kind          Kind
	Type          string            // wire name, with its schema version: account.opened.v2
	Stream        Stream            // the aggregate that handles it; of an event, the one that recorded it
	Sender        Stream            // of a command that an aggregate sent, that instance; of an event that it reacts to, the one that recorded it; else zero. Its tenant is that of Stream
	Source        string            // the sender's constant name; by default the service's
	Actor         string            // who asked for it; not part of the content
	Time          time.Time         // of an event, the decision's; else when the log appended the message; UTC
	BusinessTime  time.Time         // the client's time, or zero; UTC
	CausationID   ID                // the message that caused this one; zero for a client's command
	CorrelationID ID                // the first message of the chain
	ContentType   string            // of Payload
	Headers       map[string]string // trace context and the like; not part of the content
	Payload       []byte
	Version       int64    // of an event, the stream's version once it is applied; else 0
	Position      Position // in the inbox; of an event, that of the message which caused it
}

// SchemaVersion returns the version in the wire name; no suffix is 1.
func (e *Envelope) SchemaVersion() int {
	_, v := splitVersion(e.Type)
	return v
}

// splitVersion cuts a trailing .vN (N ≥ 2, no leading zero) off a wire name.
func splitVersion(name string) (base string, version int) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 || len(name) < i+3 || name[i+1] != 'v' || name[i+2] == '0' {
		return name, 1
	}
	v, err := strconv.ParseUint(name[i+2:], 10, 16)
	if err != nil || v < 2 {
		return name, 1
	}
	return name[:i], int(v)
}

// aggregateOf returns the aggregate in a wire name: all before the last word.
func aggregateOf(name string) (string, error) {
	base, _ := splitVersion(name)
	i := strings.LastIndexByte(base, '.')
	if i <= 0 || !validName(name) {
		return "", fmt.Errorf("wire name %q: want <aggregate>.<word> or <aggregate>.<word>.vN, in lower case", name)
	}
	return base[:i], nil
}

// validName holds for names of services, aggregates, projections and wire names.
func validName(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func plain(s string) bool {
	return strings.ToValidUTF8(s, "") == s && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}
