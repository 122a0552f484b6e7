// Package idempotency serves commands over HTTP under an Idempotency-Key header, as the IETF's draft
// draft-ietf-httpapi-idempotency-key-header has it: a client that got no answer asks again with the same key, and
// learns what became of its first request. What a command is, and who may give it, is the caller's business.
package idempotency

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/dejalog/deja"
)

const (
	// Header is the request header with the key: a string of HTTP's structured fields, such as "8e03978e", of 1 to
	// 255 bytes. The quotes may be left out.
	Header = "Idempotency-Key"

	// Replayed is set to "true" in an answer that tells the outcome of an earlier request.
	Replayed = "Idempotency-Replayed"
)

const (
	patience = 10 * time.Second // how long a request waits for its outcome
	maxBody  = 1 << 20          // bytes of a request's body
)

// Handler returns a handler that turns each request into a command, has it decided, and tells the outcome.
//
// The function request makes the command of an HTTP request; its error is the client's fault and shown to it. It must
// make the same of the same request each time, so it reads no clock. It leaves the message's ID to Handler, which
// derives it from purpose, the Tenant and Actor that request gave, and the key: no caller can meet another's keys, if
// Actor is the authenticated principal. The purpose names what the route does, such as "withdrawal". It must never
// change, even if the URL or the command's name does: keys of before would count as new.
//
// Only an applied command is answered with 200, now and whenever it is asked for again, with the same body: a
// [Result]. All else is a [Problem], of application/problem+json. A request that has no outcome within ten seconds,
// or by the deadline of its context if that comes first, is told that it is pending.
func Handler(c deja.Client, purpose string, request func(*http.Request) (deja.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := parseKey(r.Header.Values(Header))
		if err != nil {
			write(w, problemOf(http.StatusBadRequest, ProblemKey, err.Error()))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		cmd, err := request(r)
		if err == nil {
			err = check(cmd)
		}
		if err != nil {
			write(w, badRequest(err))
			return
		}
		cmd.ID = deja.DeriveID(space(purpose, cmd), key)
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		out, err := c.Do(ctx, cmd)
		if out.Duplicate {
			w.Header().Set(Replayed, "true")
		}
		if err != nil {
			write(w, refusal(r.Context(), cmd.ID, err))
			return
		}
		write(w, Result{ID: out.ID, Version: out.Version, Position: out.Position})
	})
}

// check finds what the client's fault could be in a request, which [deja.Client] does not tell from its own failing.
func check(r deja.Request) error {
	if r.Command == nil {
		return errors.New("the request asks for nothing")
	}
	aggregate, err := deja.Target(r.Command.CommandType())
	if err != nil {
		return err
	}
	return deja.Stream{Tenant: r.Tenant, Aggregate: aggregate, Key: r.Key}.Valid()
}

// space keeps the keys of one caller and purpose from all others'. The quotes keep the parts from running together;
// those of ASCII do not depend on the release of Unicode that a release of Go knows.
func space(purpose string, r deja.Request) string {
	return "idempotency-key/" + strconv.QuoteToASCII(purpose) + strconv.QuoteToASCII(r.Tenant) + strconv.QuoteToASCII(r.Actor)
}

func badRequest(err error) Problem {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problemOf(http.StatusRequestEntityTooLarge, ProblemRequest, err.Error())
	}
	return problemOf(http.StatusBadRequest, ProblemRequest, err.Error())
}

// refusal tells why a command was not applied.
func refusal(ctx context.Context, id deja.ID, err error) Problem {
	p := problemFor(err)
	if p.Type == ProblemUnavailable {
		slog.WarnContext(ctx, "command without an outcome", slog.String("id", id.String()), slog.Any("error", err))
	}
	p.ID = id
	return p
}

func problemFor(err error) Problem {
	switch {
	case errors.Is(err, deja.ErrInvalid):
		return badRequest(err)
	case errors.Is(err, deja.ErrPending):
		p := problemOf(http.StatusConflict, ProblemPending, "the request is recorded and being processed: ask again with the same key")
		p.retryAfter = "1"
		return p
	case errors.Is(err, deja.ErrParked):
		return problemOf(http.StatusConflict, ProblemParked, "the request is recorded, and waits for an operator: ask again later with the same key")
	}
	if rejection, ok := errors.AsType[*deja.Rejection](err); ok {
		p := problemOf(http.StatusConflict, ProblemRejected, rejection.Detail)
		p.Code = rejection.Code
		return p
	}
	if conflict, ok := errors.AsType[*deja.Conflict](err); ok {
		p := problemOf(http.StatusUnprocessableEntity, ProblemReused, "send a new request with a key of its own")
		p.Paths = conflict.Paths
		return p
	}
	if dead, ok := errors.AsType[*deja.Dead](err); ok {
		p := problemOf(http.StatusUnprocessableEntity, ProblemDead, dead.Reason.Detail)
		p.Code = dead.Reason.Code
		return p
	}
	p := problemOf(http.StatusServiceUnavailable, ProblemUnavailable, "it is not known whether the request was recorded: try again with the same key")
	p.retryAfter = "1"
	return p
}
