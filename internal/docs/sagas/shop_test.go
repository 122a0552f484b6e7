package sagas_test

import (
	"context"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
)

func shop() *deja.Service {
	return &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{orders()}}
}

func warehouse() *deja.Service {
	return &deja.Service{Name: "warehouse", Aggregates: []deja.AnyAggregate{parcels(), doors()}}
}

func newShop(log driver.Log, store driver.Store, post Provider) (*engine.Engine, error) {
	return engine.New(engine.Config{
		Service: shop(), Log: log, Store: store,
		Peers:   map[string]string{"parcel": "warehouse", "door": "warehouse"}, // whose these aggregates are
		Effects: []deja.Performer{mailer(post)},
	})
}

// Provider sends mail, once for each key, and remembers the keys for a day.
type Provider interface {
	Send(ctx context.Context, key, text string) error
	Sent(ctx context.Context, key string) (bool, error)
}

func mailer(p Provider) deja.Performer {
	return deja.PerformWith(deja.Performing[Mail]{
		Do: func(ctx context.Context, key deja.ID, m Mail) (deja.Command, error) {
			return nil, p.Send(ctx, key.String(), m.Text) // the same key at each try
		},
		Inquire: func(ctx context.Context, key deja.ID, _ Mail) (deja.Command, error) {
			sent, err := p.Sent(ctx, key.String())
			if err == nil && !sent {
				err = deja.NewRejection("mail.lost")
			}
			return nil, err
		},
		Window:      24 * time.Hour, // how long the provider surely remembers a key
		Deadline:    5 * time.Second,
		Concurrency: 8,
	})
}

func buy(ctx context.Context, shop deja.Client, key, item string) (string, error) {
	out, err := shop.Do(ctx, deja.Request{
		ID: deja.DeriveID("cart", key), Key: key, Command: Place{Item: item},
		Until: deja.AtEnd(), // or AtEvent(Packed{})
	})
	if err != nil {
		return "", err // ErrPending: the order is placed, and has not ended in time; ask again with the same ID
	}
	return out.Reached.Type, nil // order.packed, order.undone, or order.stuck
}
