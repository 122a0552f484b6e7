package engine

import (
	"context"
	"time"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
)

// RouteHealth is a route that lags: messages that follow from what a journal has are not in an inbox yet.
type RouteHealth struct {
	From      string `json:"from"` // the journal
	Partition int32  `json:"partition"`
	To        string `json:"to"` // the inbox

	// At is up to where it was carried, and End what there is to carry: decisions of the own journal, offsets in another
	// one. Of the last ones in there none may concern the inbox.
	At  int64 `json:"at"`
	End int64 `json:"end"`

	// Still is how long it has not moved, as far as Health was asked. After ten seconds it is stalled.
	Still   time.Duration `json:"still"`
	Stalled bool          `json:"stalled"`

	source source
}

// standing is where a route stood when Health first saw it there.
type standing struct {
	at    int64
	since time.Time
}

// routeID names a route: from where, and into whose inbox.
type routeID struct {
	source
	to string
}

// routeHealth tells of the routes that lag.
func (e *Engine) routeHealth(ctx context.Context, ps []PartitionHealth) (hs []RouteHealth, err error) {
	cursors, ok := e.log.(driver.Cursors)
	if !ok {
		return nil, nil
	}
	own := e.machine.Name()
	look := func(id routeID, end int64) error {
		at, err := cursors.Cursor(ctx, route.Reader(own, id.to), wire.Journal(id.service), id.partition)
		if err != nil {
			return err
		}
		if h := e.standsStill(id, at, end); h != nil {
			hs = append(hs, *h)
		}
		return nil
	}
	for _, to := range e.talks.Targets {
		for i := range ps {
			if err := look(routeID{source{own, ps[i].Partition}, to}, ps[i].Logged); err != nil {
				return nil, err
			}
		}
	}
	if err := e.ends(ctx, func(s source, end int64) error { return look(routeID{s, own}, end) }); err != nil {
		return nil, err
	}
	return hs, e.notStalled(ctx, hs)
}

// standsStill tells of a route that lags, and notes where it stands; nil: it does not lag.
func (e *Engine) standsStill(id routeID, at, end int64) *RouteHealth {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at >= end {
		delete(e.stands, id)
		return nil
	}
	if e.stands == nil {
		e.stands = map[routeID]standing{}
	}
	was, ok := e.stands[id]
	if !ok || was.at != at {
		was = standing{at, time.Now()}
		e.stands[id] = was
	}
	h := &RouteHealth{
		From: wire.Journal(id.service), Partition: id.partition, To: wire.Inbox(id.to), At: at, End: end, Still: time.Since(was.since), source: id.source,
	}
	h.Stalled = h.Still > stalledAfter
	return h
}

// notStalled takes those routes out of the stalled ones that have nothing to carry: behind the last decision of another
// service's journal there may be copies and markers.
func (e *Engine) notStalled(ctx context.Context, hs []RouteHealth) error {
	for i := range hs {
		h := &hs[i]
		if !h.Stalled || h.source.service == e.machine.Name() {
			continue
		}
		end, err := e.counted(ctx, h.source, h.At, h.End)
		if err != nil {
			return err
		}
		h.Stalled = end > h.At
	}
	return nil
}
