// Package body holds the payloads of the messages that deja itself makes: replies to sent commands, and results of effects.
// They are JSON, whatever the services' codecs write; what they carry of a service's own is kept as it is.
package body

import (
	"encoding/base64"
	"encoding/json"
)

// JSON is the content type of these payloads, and of what they carry unless it says otherwise.
const JSON = "application/json"

// A Part is a payload of a service's own.
type Part struct {
	Type        string          `json:"type"`                  // its wire name
	ContentType string          `json:"contentType,omitempty"` // none: JSON
	Payload     json.RawMessage `json:"payload,omitempty"`     // if it is JSON
	Bytes       []byte          `json:"bytes,omitempty"`       // if it is something else
}

// NewPart returns a part.
func NewPart(wire, contentType string, payload []byte) Part {
	if contentType == JSON {
		return Part{Type: wire, Payload: payload}
	}
	return Part{Type: wire, ContentType: contentType, Bytes: payload}
}

// Data returns the payload, and what it is.
func (p *Part) Data() (contentType string, payload []byte) {
	if p.ContentType == "" {
		return JSON, p.Payload
	}
	return p.ContentType, p.Bytes
}

// Size returns how many bytes a payload takes in a body, at most: a letter of JSON up to six, as the body is safe in HTML,
// and other bytes a third more.
func Size(contentType string, payload []byte) int {
	if contentType != JSON {
		return base64.StdEncoding.EncodedLen(len(payload))
	}
	n := len(payload)
	for i, c := range payload {
		switch c {
		case '<', '>', '&':
			n += len(`\u003c`) - 1
		case 0xa8, 0xa9: // the last byte of U+2028 or U+2029
			if i >= 2 && payload[i-2] == 0xe2 && payload[i-1] == 0x80 {
				n += len(`\u2028`) - 3
			}
		}
	}
	return n
}

// A Refusal says why something was not done.
type Refusal struct {
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
}

// An Event is one that a command was answered with.
type Event struct {
	ID      string `json:"id"`
	Version int64  `json:"version"`
	Part
}

// A Reply says how a sent command was settled.
type Reply struct {
	Service   string   `json:"service"` // that settled it
	Tenant    string   `json:"tenant,omitempty"`
	Aggregate string   `json:"aggregate"`
	Key       string   `json:"key"`
	Time      string   `json:"time"` // of the decision, RFC 3339
	Command   Part     `json:"command"`
	Events    []Event  `json:"events,omitempty"`
	Rejection *Refusal `json:"rejection,omitempty"` // none if it was applied
}

// A Result says what became of an effect.
type Result struct {
	Effect    Part     `json:"effect"`
	Command   *Part    `json:"command,omitempty"`   // the answer, to the aggregate that asked
	Rejection *Refusal `json:"rejection,omitempty"` // why it was given up
	Reason    string   `json:"reason,omitempty"`    // an operator's, for the record
}
