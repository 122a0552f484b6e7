package deja

import "reflect"

// A Service is what one service does, as a pure value: engine, tests, replay and tools all take it. Its name is part
// of every derived ID and of its topics' names: it never changes.
type Service struct {
	Name        string
	Aggregates  []AnyAggregate
	Projections []*Projection
	Upcasters   []Upcaster // for own events recorded in an older shape
	Codec       Codec      // of payloads; nil is [JSON]
}

// An Upcaster turns an event of an old shape into the next one, when it is read. It must be pure. Upcasters chain.
type Upcaster struct {
	from, to string
	old      reflect.Type
	decode   func(c Codec, data []byte) (any, error)
	up       func(old any) any
	missing  bool
}

// Upcast returns an upcaster; the old and the new wire name come from the types.
func Upcast[Old, New Event](fn func(Old) New) Upcaster {
	var from Old
	var to New
	return Upcaster{
		from:    from.EventType(),
		to:      to.EventType(),
		old:     reflect.TypeFor[Old](),
		decode:  decodePayload[Old],
		up:      func(old any) any { return fn(old.(Old)) },
		missing: fn == nil,
	}
}
