// Package uniquename is a ready aggregate: a name that one owner at a time can have, such as a user's handle. It is a
// value to put into a service's Aggregates, and ends there: who claims a name is a saga or a client.
//
// A rule over a set, "no two users have the same name", needs something that sees the whole set one message after the
// other. A stream is that: each name is a stream, its key is the name's normal form, and the set is the streams. Names
// are as many as there are; no query is asked that another message could have overtaken.
//
//	type Handles struct{} // a kind of name: its aggregate, and when two names are the same
//
//	func (Handles) AggregateName() string           { return "handles" }
//	func (Handles) Key(name string) (string, error) { return uniquename.ASCII(name) }
//
//	deja.Service{Name: "users", Aggregates: []deja.AnyAggregate{uniquename.Aggregate[Handles]()}}
//
//	uniquename.Claim[Handles]{Owner: "user-17", Until: until}   // to the key that Handles.Key("Ana") returns
//	uniquename.Confirm[Handles]{Owner: "user-17", Until: until} // once the user exists
//	uniquename.Release[Handles]{Owner: "user-17", Until: until} // or if it does not come to that, or later
//
// A claim is named by its owner and its end: an owner can claim a name, give it back and claim it again, later, with a
// later end. It holds the name until its end, and for good once it is confirmed. Whatever order the messages of claims
// arrive in, and however often, each under a message ID of its own:
//
//	          nobody's                another's    held by this claim    confirmed     released             over
//	Claim     held                    ErrTaken     nothing               nothing       ErrReleased          ErrExpired
//	Confirm   ErrUnclaimed            as nobody's  confirmed             nothing       ErrReleased          ErrExpired
//	Release   barred¹                 barred¹      released              released      nothing              nothing
//
// "Nothing" is applied and records no event. ¹Claims of this owner that come later and end until then are refused with
// ErrReleased.
//
// A Release that is well formed is never refused, so it is a compensation that cannot get stuck. It releases a claim
// which ends then or before, and no later one of the same owner.
//
// When a claim is over is said by its end and the decision's time alone. Its timer gives the name back; should it be
// late, the next claim takes it. Only bars that still matter are remembered: a claim that comes when its time is over is
// refused by the clock.
package uniquename
