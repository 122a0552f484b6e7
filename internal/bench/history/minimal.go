package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/sqlite"
)

// A vault goes off when it is opened after it was armed and loaded, in that order, whatever else came between.
type vault struct {
	Armed  bool  `json:"armed"`
	Loaded bool  `json:"loaded"`
	Off    bool  `json:"off"`
	Count  int64 `json:"count"`
}

// turn is all that is done to one.
type turn struct {
	What string `json:"what"`
}

// CommandType implements [deja.Command].
func (turn) CommandType() string { return "vault.turn" }

type turned turn

// EventType implements [deja.Event].
func (turned) EventType() string { return "vault.turned" }

func vaults() *deja.Service {
	return &deja.Service{Name: "vaults", Aggregates: []deja.AnyAggregate{deja.NewAggregate("vault",
		deja.Handle(func(_ vault, d *deja.Decision, c turn) error { d.Record(turned(c)); return nil }),
		deja.Apply(func(v *vault, e turned) {
			switch e.What {
			case "arm":
				v.Armed = true
			case "load":
				v.Loaded = v.Armed
			case "open":
				v.Off = v.Loaded
			default:
				v.Count++
			}
		}),
	)}}
}

// minimal measures how long it takes to find the three messages of 10,000 that a fault needs.
func (s *settings) minimal(ctx context.Context) (err error) {
	const messages = 10_000
	path := filepath.Join(s.dir, "vaults.db")
	err = create(ctx, path, vaults(), messages, func(i int) deja.Request {
		what := map[int]string{1234: "arm", 5678: "load", messages - 1: "open"}[i]
		return deja.Request{ID: v4(), Key: "1", Command: turn{what}}
	})
	if err != nil {
		return err
	}
	db, err := sqlite.OpenReadOnly(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	h, err := history.Open(ctx, history.Config{Service: vaults(), Log: db.Log(), Ledger: db.Store()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	machine, err := deja.Compile(vaults())
	if err != nil {
		return err
	}
	scope, err := history.ParseScope(machine, "vault/1")
	if err != nil {
		return err
	}
	off, err := history.Compile(machine, scope, "state.off")
	if err != nil {
		return err
	}
	first, err := h.Decided(ctx, 0, messages)
	if err != nil {
		return err
	}
	var took []float64
	for range s.runs {
		began := time.Now()
		m, err := h.Minimal(ctx, first, off)
		if err != nil {
			return err
		}
		if len(m.Messages) != 3 || !m.Minimal {
			return fmt.Errorf("the minimal history has %d messages, want 3", len(m.Messages))
		}
		took = append(took, time.Since(began).Seconds())
	}
	figures{{"minimal history of a fault of 3 messages in 10,000", "s", "≤ 30", median(took)}}.print(nil)
	return nil
}
