package wire

import (
	"reflect"
	"testing"
	"time"

	"github.com/dejalog/deja"
)

func fullOpen() Open {
	emitted := func(kind deja.Kind, name, wire string) deja.Envelope {
		return deja.Envelope{
			ID: deja.DeriveID("open", name), Kind: kind, Type: wire, Stream: stream, Source: "bank", Actor: "ana", BusinessTime: business,
			CausationID: deja.DeriveID("t", "2"), CorrelationID: deja.DeriveID("t", "3"), ContentType: "application/json", Payload: []byte(`{"n":1}`),
		}
	}
	return Open{
		Timers: []deja.Timer{
			{Name: "late", Due: at.Add(time.Hour), Command: emitted(deja.KindCommand, "1", "account.late")},
			{Name: "soon", Due: at.Add(time.Minute), Command: emitted(deja.KindCommand, "2", "account.soon")},
		},
		Effects: []Effect{{emitted(deja.KindEffect, "3", "card.charge"), at}},
		Sent: []Sent{
			{deja.DeriveID("open", "4"), "ledger.post", deja.Stream{Tenant: stream.Tenant, Aggregate: "ledger", Key: "l1"}, at},
			{deja.DeriveID("open", "5"), "ledger.post", deja.Stream{Tenant: stream.Tenant, Aggregate: "ledger", Key: "l2"}, at.Add(time.Second)},
		},
		Began: at, Stuck: "account.stuck", Since: at.Add(time.Second),
	}
}

func TestWhatAStreamWaitsForComesBackAsItWas(t *testing.T) {
	least := Open{Sent: []Sent{{ID: deja.DeriveID("open", "4"), Type: "ledger.post", Stream: deja.Stream{Tenant: stream.Tenant}, Time: at}}}
	for name, o := range map[string]Open{"open_full": fullOpen(), "open_least": least} {
		data := o.Append(nil)
		golden(t, name, data)
		back, err := DecodeOpen("bank", stream, data)
		if err != nil || !reflect.DeepEqual(back, o) {
			t.Errorf("%s came back as\n%+v, %v; was\n%+v", name, back, err, o)
		}
	}
	var none Open
	if data := none.Append(nil); len(data) > 0 {
		t.Errorf("nothing to wait for is written as %x", data)
	}
	if back, err := DecodeOpen("bank", stream, nil); err != nil || !back.Empty() {
		t.Errorf("nothing came back as %+v, %v", back, err)
	}
	if due := fullOpen(); !due.Due().Equal(at.Add(time.Minute)) {
		t.Errorf("the earliest timer is due at %s", due.Due())
	}
}

func FuzzDecodeOpen(f *testing.F) {
	full := fullOpen()
	f.Add(full.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := DecodeOpen("bank", stream, data)
		if err != nil {
			return
		}
		again, err := DecodeOpen("bank", stream, o.Append(nil))
		if err != nil || !o.Empty() && !reflect.DeepEqual(again, o) {
			t.Errorf("%+v came back as %+v, %v", o, again, err)
		}
	})
}
