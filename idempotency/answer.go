package idempotency

import (
	"encoding/json"
	"net/http"

	"github.com/dejalog/deja"
)

// A Result is the body of the answer to an applied command. It is the same whenever it is asked for.
type Result struct {
	ID       deja.ID       `json:"id"`       // of the message
	Version  int64         `json:"version"`  // of the stream, after it
	Position deja.Position `json:"position"` // of the message in the inbox
}

// A Problem is the body of every other answer (RFC 9457).
type Problem struct {
	Type   string   `json:"type"` // one of the constants
	Title  string   `json:"title"`
	Status int      `json:"status"`
	Detail string   `json:"detail,omitempty"` // for people
	ID     deja.ID  `json:"id,omitzero"`      // of the message, where there is one
	Code   string   `json:"code,omitempty"`   // of the refusal, or of the reason why the message is dead
	Paths  []string `json:"paths,omitempty"`  // where two requests with one key differ

	retryAfter string // seconds
}

// pkg is where the types of problem are explained: here.
const pkg = "https://pkg.go.dev/github.com/dejalog/deja/idempotency#"

// The types of problem.
const (
	// ProblemKey (400): the header with the key is missing, or not as it should be.
	ProblemKey = pkg + "ProblemKey"

	// ProblemRequest (400, or 413 for a body above 1 MiB): no command can be made of the request. Nothing was
	// recorded; the key is still unused.
	ProblemRequest = pkg + "ProblemRequest"

	// ProblemRejected (409): the command was refused, for a business reason, which Code names. It stays refused: to
	// try again is a new request with a new key.
	ProblemRejected = pkg + "ProblemRejected"

	// ProblemReused (422): the key was used before, for another request. Nothing was done.
	ProblemReused = pkg + "ProblemReused"

	// ProblemPending (409, Retry-After): the request is recorded, and not decided yet. Ask again with the same key.
	ProblemPending = pkg + "ProblemPending"

	// ProblemParked (409): the request is recorded, and waits for an operator, because its handler failed or an
	// earlier request for the same thing did. It is no 202, so that 2xx always means applied; and no 503, which makes
	// clients and proxies try again at once, in vain. Ask again later with the same key.
	ProblemParked = pkg + "ProblemParked"

	// ProblemDead (422): the command can never be handled, or an operator gave it up. Code says why.
	ProblemDead = pkg + "ProblemDead"

	// ProblemUnavailable (503, Retry-After): it is not known whether the request was recorded. Try again with the
	// same key.
	ProblemUnavailable = pkg + "ProblemUnavailable"
)

var titles = map[string]string{
	ProblemKey:         "an idempotency key is needed",
	ProblemRequest:     "the request cannot be understood",
	ProblemRejected:    "the command was refused",
	ProblemReused:      "the idempotency key belongs to another request",
	ProblemPending:     "the request is still being processed",
	ProblemParked:      "the request waits for an operator",
	ProblemDead:        "the command cannot be handled",
	ProblemUnavailable: "try again with the same idempotency key",
}

func problemOf(status int, typ, detail string) Problem {
	return Problem{Type: typ, Title: titles[typ], Status: status, Detail: detail}
}

// answer is a [Result] or a [Problem].
type answer interface {
	head(http.Header) (status int)
}

func (Result) head(h http.Header) int {
	h.Set("Content-Type", "application/json")
	return http.StatusOK
}

func (p Problem) head(h http.Header) int {
	h.Set("Content-Type", "application/problem+json")
	if p.retryAfter != "" {
		h.Set("Retry-After", p.retryAfter)
	}
	return p.Status
}

func write(w http.ResponseWriter, a answer) {
	body, _ := json.Marshal(a) // neither holds anything that has no JSON
	w.WriteHeader(a.head(w.Header()))
	_, _ = w.Write(append(body, '\n')) // the client may be gone; it will ask again
}
