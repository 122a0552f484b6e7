package wire

import (
	"strconv"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// The headers that records carry for readers that are not deja: the attributes of CloudEvents 1.0 as its Kafka binding
// names them, in binary mode, and the W3C trace context of the message.
const (
	headerSpec    = "ce_specversion"
	headerID      = "ce_id"
	headerSource  = "ce_source"
	headerType    = "ce_type"
	headerSubject = "ce_subject"
	headerTime    = "ce_time"
	headerContent = "content-type"
)

// What is in an inbox or a journal is in a form of deja's own; the type of the content says so.
var (
	messageContent = []byte("application/vnd.deja.message")
	recordContent  = []byte("application/vnd.deja.record")

	typeDecision = []byte("deja.decision")
	typeMarker   = []byte("deja.marker")

	specVersion = []byte("1.0")
)

// TraceHeaders are passed on as they are: the W3C trace context.
var TraceHeaders = []string{"traceparent", "tracestate"}

// MessageHeaders returns the headers of an inbox record.
func MessageHeaders(e *deja.Envelope) []driver.Header {
	hs := append(make([]driver.Header, 0, 8),
		driver.Header{Name: headerSpec, Value: specVersion},
		driver.Header{Name: headerID, Value: []byte(e.ID.String())},
		driver.Header{Name: headerSource, Value: []byte(e.Source)},
		driver.Header{Name: headerType, Value: []byte(e.Type)},
		driver.Header{Name: headerSubject, Value: []byte(e.Stream.Aggregate + "/" + e.Stream.Key)},
		driver.Header{Name: headerContent, Value: messageContent})
	return appendTrace(hs, e.Headers)
}

func appendTrace(hs []driver.Header, from map[string]string) []driver.Header {
	for _, name := range TraceHeaders {
		if v := from[name]; v != "" {
			hs = append(hs, driver.Header{Name: name, Value: []byte(v)})
		}
	}
	return hs
}

// RecordHeaders returns the headers of a journal record of a partition, of which it looks at no more than it must. What
// is no record has none. The id is partition:incarnation:number, and a marker's partition:incarnation: after a store
// went back, a number is given again to another decision.
func RecordHeaders(service string, partition int32, record []byte) []driver.Header {
	g := glance{headers: make([]driver.Header, 0, 9)}
	if fields(record, g.field) != nil {
		return nil
	}
	kind := typeDecision
	if g.marker {
		kind = typeMarker
	}
	hs := g.headers
	hs = append(hs,
		driver.Header{Name: headerSpec, Value: specVersion},
		driver.Header{Name: headerType, Value: kind},
		driver.Header{Name: headerContent, Value: recordContent})
	texts := make([]byte, 0, 128) // what is made for this record, in one piece of memory
	add := func(name string, with []byte) {
		hs = append(hs, driver.Header{Name: name, Value: with[len(texts):len(with):len(with)]})
		texts = with
	}
	add(headerSource, append(append(texts, service...), journalSuffix...))
	if !g.at.IsZero() {
		add(headerTime, g.at.AppendFormat(texts, time.RFC3339Nano))
	}
	id := strconv.AppendInt(texts, int64(partition), 10)
	id = strconv.AppendUint(append(id, ':'), g.life, 10)
	if g.marker {
		add(headerID, id)
		return hs
	}
	add(headerID, strconv.AppendUint(append(id, ':'), g.n, 10))
	add(headerSubject, append(append(append(texts, g.aggregate...), '/'), g.key...))
	return hs
}

// glance is what the headers of a journal record tell of it.
type glance struct {
	n, life        uint64
	marker         bool
	aggregate, key []byte
	at             time.Time
	headers        []driver.Header // of its cause's trace
}

func (g *glance) field(f field) error {
	switch f.num {
	case 2:
		g.n = f.v
	case 4:
		g.life = f.v
	case 6:
		return fields(f.b, g.cause)
	case 18:
		g.at = f.time()
	case 26:
		g.marker = Kind(f.v) == KindMarker
	}
	return nil
}

func (g *glance) cause(f field) error {
	switch f.num {
	case 6:
		g.aggregate = f.b
	case 7:
		g.key = f.b
	case 14:
		return g.header(f.b)
	}
	return nil
}

// header takes a header of the cause, if it is one of its trace.
func (g *glance) header(data []byte) error {
	var kv [2][]byte
	err := fields(data, func(f field) error {
		if f.num == 1 || f.num == 2 {
			kv[f.num-1] = f.b
		}
		return nil
	})
	if name := string(kv[0]); err == nil && (name == TraceHeaders[0] || name == TraceHeaders[1]) {
		g.headers = append(g.headers, driver.Header{Name: name, Value: kv[1]})
	}
	return err
}

// EventHeaders returns the headers of a recorded event, published as a plain CloudEvent: its payload is the record's
// value. Besides the standard attributes there are the stream's tenant (if it has one) and version, the message that
// caused the event, and the correlation.
func EventHeaders(e *deja.Envelope, cause *deja.Envelope) []driver.Header {
	hs := append(make([]driver.Header, 0, 14),
		driver.Header{Name: headerSpec, Value: specVersion},
		driver.Header{Name: headerID, Value: []byte(e.ID.String())},
		driver.Header{Name: headerSource, Value: []byte(e.Source)},
		driver.Header{Name: headerType, Value: []byte(e.Type)},
		driver.Header{Name: headerSubject, Value: []byte(e.Stream.Aggregate + "/" + e.Stream.Key)},
		driver.Header{Name: headerTime, Value: e.Time.AppendFormat(nil, time.RFC3339Nano)},
		driver.Header{Name: headerContent, Value: []byte(e.ContentType)},
		driver.Header{Name: "ce_partitionkey", Value: []byte(e.Stream.Key)},
		driver.Header{Name: "ce_version", Value: strconv.AppendInt(nil, e.Version, 10)},
		driver.Header{Name: "ce_causationid", Value: []byte(e.CausationID.String())},
		driver.Header{Name: "ce_correlationid", Value: []byte(e.CorrelationID.String())})
	if e.Stream.Tenant != "" {
		hs = append(hs, driver.Header{Name: "ce_tenant", Value: []byte(e.Stream.Tenant)})
	}
	return appendTrace(hs, cause.Headers)
}
