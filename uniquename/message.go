package uniquename

import "time"

// A Kind names the aggregate of a kind of name, and says when two names are the same. An empty struct will do.
type Kind interface {
	// AggregateName is called on a zero value and must return a constant.
	AggregateName() string
	// Key returns the normal form of a name, which is the key of its stream, or an error if it is none. The normal form
	// of a normal form is itself; a claim of anything else is refused. It is pure and must never change: two streams
	// would be one name. [ASCII] is one.
	Key(name string) (string, error)
}

// Claim holds the name for an owner until it is confirmed or released, or its time is over.
type Claim[K Kind] struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"` // in steps of a microsecond; from then on it can be neither made nor confirmed
}

// Confirm keeps the name for its owner until it is released.
type Confirm[K Kind] struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"` // that of the claim
}

// Release gives the name back, confirmed or not. A claim that has not come yet is barred: it is refused when it does.
type Release[K Kind] struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"` // that of the claim
}

// Expire gives the name back if the claim's time is over. The name sends it to itself; from anybody else it does no
// harm.
type Expire[K Kind] struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"`
}

// Claimed says that the name is held for an owner.
type Claimed[K Kind] struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"`
}

// Confirmed says that the name is its owner's until it is released.
type Confirmed[K Kind] struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"`
}

// Released says that claims of an owner which end until then are over, whether they had come or not.
type Released[K Kind] struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"`
	At    time.Time `json:"at"` // when; what was released and ended before then is forgotten
}

// Expired says that the name was given back, as the claim's time was over.
type Expired[K Kind] struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"`
}

// CommandType is <aggregate>.claim.
func (Claim[K]) CommandType() string { return wireName[K]("claim") }

// CommandType is <aggregate>.confirm.
func (Confirm[K]) CommandType() string { return wireName[K]("confirm") }

// CommandType is <aggregate>.release.
func (Release[K]) CommandType() string { return wireName[K]("release") }

// CommandType is <aggregate>.expire.
func (Expire[K]) CommandType() string { return wireName[K]("expire") }

// EventType is <aggregate>.claimed.
func (Claimed[K]) EventType() string { return wireName[K]("claimed") }

// EventType is <aggregate>.confirmed.
func (Confirmed[K]) EventType() string { return wireName[K]("confirmed") }

// EventType is <aggregate>.released.
func (Released[K]) EventType() string { return wireName[K]("released") }

// EventType is <aggregate>.expired.
func (Expired[K]) EventType() string { return wireName[K]("expired") }

func wireName[K Kind](word string) string {
	var k K
	return k.AggregateName() + "." + word
}
