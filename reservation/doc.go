// Package reservation is a ready aggregate: a pool of units that are reserved, and then confirmed, cancelled or
// expired. It is a value to put into a service's Aggregates, and ends there: what reserves is a saga or a client.
//
// A pool is the aggregate of one thing that is limited, such as the seats of a show, the rooms of a hotel in a night
// or the stock of an article; its key says which. Units are supplied, held under the reservation's id until a stated
// time, and then taken for good or given back:
//
//	type Seats struct{} // a kind of pool, which names its aggregate
//
//	func (Seats) AggregateName() string { return "seats" }
//
//	deja.Service{Name: "boxoffice", Aggregates: []deja.AnyAggregate{reservation.Aggregate[Seats](24 * time.Hour)}}
//
//	reservation.Supply[Seats]{Amount: 100}
//	reservation.Reserve[Seats]{ID: "order-1", Amount: 2, Until: until} // holds two
//	reservation.Confirm[Seats]{ID: "order-1"}                          // takes them
//	reservation.Cancel[Seats]{ID: "order-1", Until: until}             // or gives them back
//
// What is held and confirmed is never more than what was supplied. Beyond that, the pool answers every order in which
// the messages of a reservation may arrive, and every repetition under a message ID of its own (the same message
// again is suppressed before any handler sees it):
//
//	             not known            held        confirmed      cancelled      expired or over
//	Reserve      held, or ErrShort    nothing²    nothing²       ErrCancelled   ErrExpired
//	Confirm      ErrUnknown           confirmed   nothing        ErrCancelled   ErrExpired
//	Cancel       barred¹              cancelled   ErrConfirmed   nothing        nothing
//
// "Nothing" is applied and records no event. ¹A reservation that is cancelled before it comes is barred: it is refused
// with ErrCancelled when it comes. ²With the amount and the end that it has, or else ErrDiffers.
//
// When a reservation is over is said by its end and the decision's time alone. Its timer gives the units back; should
// it be late, they are given to whoever asks for them first.
//
// The end of a reservation bounds what must be remembered. A Reserve that comes when its time is over is refused
// whatever is known of it, so a bar need not last longer. A Cancel tells the end too: so the pool knows one that never
// came, and has nothing to cancel, from one that it has forgotten, and answers ErrUnknown rather than guess. How long
// settled reservations are remembered beyond their end is the aggregate's parameter: at least as long as a service may
// be down without a person having to look into the history for a late Cancel.
//
// A pool costs time with each message, and space, in proportion to the reservations that it holds and remembers: some
// microseconds each. A thing that has more than some hundreds at a time is better split into several pools.
//
// [Holds] has these rules without the pool, for aggregates whose own state says what there is to be reserved, as the
// balance of an account.
package reservation
