package dejatest

import (
	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/request"
)

// message makes of a request what a client would send; id is for requests that bring none.
func message(m *deja.Machine, r deja.Request, id deja.ID) (*deja.Envelope, error) {
	if r.ID.IsZero() {
		r.ID = id
	}
	return request.Message(m, &r)
}
