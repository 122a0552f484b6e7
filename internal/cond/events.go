package cond

import (
	"bytes"
	"encoding/json"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// An Event is a recorded event.
type Event struct {
	Type    string
	Payload []byte // JSON
}

// events are those that a message recorded, as values when they are asked for.
type events struct {
	recorded []Event
	values   []ref.Val
}

func (es *events) all() ref.Val { return types.NewRefValList(adapter{}, es.made()) }

// last returns the last event; an empty map if there is none.
func (es *events) last() ref.Val {
	if len(es.recorded) == 0 {
		return newMap(map[string]any{})
	}
	return es.made()[len(es.recorded)-1]
}

func (es *events) made() []ref.Val {
	if es.values == nil {
		for _, e := range es.recorded {
			es.values = append(es.values, e.value())
		}
	}
	return es.values
}

// value returns the fields of the payload, if it is an object, with the event's type and all of the payload beside them.
func (e *Event) value() ref.Val {
	dec := json.NewDecoder(bytes.NewReader(e.Payload))
	dec.UseNumber()
	var payload any
	if err := dec.Decode(&payload); err != nil {
		payload = types.String(e.Payload)
	}
	m := map[string]any{}
	if fields, ok := payload.(map[string]any); ok {
		for name, v := range fields {
			m[name] = v
		}
	}
	m["type"], m["payload"] = types.String(e.Type), payload
	return newMap(m)
}
