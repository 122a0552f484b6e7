package wire_test

import (
	"maps"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

func headers(t *testing.T, hs []driver.Header) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, h := range hs {
		if _, twice := m[h.Name]; twice {
			t.Errorf("header %s is there twice", h.Name)
		}
		m[h.Name] = string(h.Value)
	}
	return m
}

func equal(t *testing.T, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("headers %v,\nwant %v", got, want)
	}
}

// The names and texts are what others read: they must not change.
func TestHeadersOfRecords(t *testing.T) {
	id, cause, correlation := deja.DeriveID("t", "1"), deja.DeriveID("t", "2"), deja.DeriveID("t", "3")
	at := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)
	msg := deja.Envelope{
		ID: id, Kind: deja.KindCommand, Type: "till.put", Source: "web", Stream: deja.Stream{Aggregate: "till", Key: "a/b"},
		CorrelationID: correlation, Headers: map[string]string{"traceparent": "00-1", "tracestate": "x=y", "other": "no"},
	}
	equal(t, headers(t, wire.MessageHeaders(&msg)), map[string]string{
		"ce_specversion": "1.0", "ce_id": id.String(), "ce_source": "web", "ce_type": "till.put", "ce_subject": "till/a/b",
		"content-type": "application/vnd.deja.message", "traceparent": "00-1", "tracestate": "x=y",
	})
	rec := wire.Record{
		Kind: wire.KindDecision, N: 42, Incarnation: driver.Incarnation{Number: 3, Nonce: [16]byte{1}}, Cause: msg, Time: at,
		Decided: deja.Decided{Status: deja.Applied}, Build: "b", Fold: "f",
	}
	equal(t, headers(t, wire.RecordHeaders("shop", 7, wire.AppendRecord(nil, &rec))), map[string]string{
		"ce_specversion": "1.0", "ce_id": "7:3:42", "ce_source": "shop.journal", "ce_type": "deja.decision", "ce_subject": "till/a/b",
		"ce_time": "2026-03-04T05:06:07.000008Z", "content-type": "application/vnd.deja.record", "traceparent": "00-1", "tracestate": "x=y",
	})
	marker := wire.Record{Kind: wire.KindMarker, N: 42, Incarnation: driver.Incarnation{Number: 4, Nonce: [16]byte{2}}}
	equal(t, headers(t, wire.RecordHeaders("shop", 7, wire.AppendRecord(nil, &marker))), map[string]string{
		"ce_specversion": "1.0", "ce_id": "7:4", "ce_source": "shop.journal", "ce_type": "deja.marker",
		"content-type": "application/vnd.deja.record",
	})
	if hs := wire.RecordHeaders("shop", 7, []byte{0xff, 0xff}); hs != nil {
		t.Errorf("what is no record has headers: %v", hs)
	}
	ev := deja.Envelope{
		ID: id, Type: "till.added", Source: "shop", Stream: deja.Stream{Tenant: "acme", Aggregate: "till", Key: "a"}, Version: 9,
		Time: at, CausationID: cause, CorrelationID: correlation, ContentType: "application/json",
	}
	equal(t, headers(t, wire.EventHeaders(&ev, &msg)), map[string]string{
		"ce_specversion": "1.0", "ce_id": id.String(), "ce_source": "shop", "ce_type": "till.added", "ce_subject": "till/a",
		"ce_time": "2026-03-04T05:06:07.000008Z", "content-type": "application/json", "ce_partitionkey": "a", "ce_version": "9",
		"ce_causationid": cause.String(), "ce_correlationid": correlation.String(), "ce_tenant": "acme", "traceparent": "00-1", "tracestate": "x=y",
	})
}
