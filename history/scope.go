package history

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dejalog/deja"
)

// A Scope names keys. Its text forms:
//
//	account/42           a key
//	account/4*           all keys of an aggregate that begin so
//	account/*            all keys of an aggregate
//	tenant:account/*     the same of a tenant; without one, of the keys that have none
//	*:account/*          the same of all tenants, and of the keys that have none
//	*                    all keys
//
// The zero Scope is all keys.
type Scope struct {
	tenant    string
	tenants   bool // all of them
	aggregate string
	key       string
	keys      bool // all that begin with key
}

// ParseScope reads a scope of a service. The error shows where it went wrong.
func ParseScope(m *deja.Machine, text string) (Scope, error) {
	if text == "*" {
		return Scope{}, nil
	}
	s, at, err := parseScope(m, text)
	if err != nil {
		return Scope{}, fmt.Errorf("scope:\n  %s\n  %s^ %w", text, strings.Repeat(" ", at), err)
	}
	return s, nil
}

func parseScope(m *deja.Machine, text string) (s Scope, at int, err error) {
	head, key, ok := strings.Cut(text, "/")
	if !ok {
		return s, len(text), fmt.Errorf("want <aggregate>/<key>, <aggregate>/* or *; the aggregates are %s", strings.Join(m.Aggregates(), ", "))
	}
	s.aggregate = head
	if tenant, aggregate, ok := strings.Cut(head, ":"); ok {
		s.tenant, s.aggregate, at = tenant, aggregate, len(tenant)+1
	}
	if !slices.Contains(m.Aggregates(), s.aggregate) {
		return s, at, fmt.Errorf("there is no aggregate %q; the aggregates of %s are %s", s.aggregate, m.Name(), strings.Join(m.Aggregates(), ", "))
	}
	if s.tenant == "*" {
		s.tenant, s.tenants = "", true
	}
	s.key, s.keys = strings.CutSuffix(key, "*")
	if s.tenants && !s.keys {
		return s, len(text), fmt.Errorf("of all tenants there are keys that begin so: want %s*", text)
	}
	if err := (deja.Stream{Tenant: s.tenant, Aggregate: s.aggregate, Key: s.key}).Valid(); err != nil && (s.key != "" || !s.keys) {
		return s, len(head) + 1, err
	}
	return s, 0, nil
}

// ScopeOf returns the scope of one key.
func ScopeOf(s deja.Stream) Scope { return Scope{tenant: s.Tenant, aggregate: s.Aggregate, key: s.Key} }

// String returns what ParseScope reads.
func (s Scope) String() string {
	if s.aggregate == "" {
		return "*"
	}
	text := deja.Stream{Tenant: s.tenant, Aggregate: s.aggregate, Key: s.key}.String()
	if s.tenants {
		text = "*:" + text
	}
	if s.keys {
		text += "*"
	}
	return text
}

// Matches reports whether a key is in the scope.
func (s Scope) Matches(k deja.Stream) bool {
	switch {
	case s.aggregate == "":
		return true
	case s.aggregate != k.Aggregate, s.tenant != k.Tenant && !s.tenants:
		return false
	case s.keys:
		return strings.HasPrefix(k.Key, s.key)
	}
	return s.key == k.Key
}

// Single returns the key of a scope that names one.
func (s Scope) Single() (deja.Stream, bool) {
	if s.aggregate == "" || s.keys {
		return deja.Stream{}, false
	}
	return deja.Stream{Tenant: s.tenant, Aggregate: s.aggregate, Key: s.key}, true
}

// aggregates returns the aggregates that keys in the scope can be of.
func (s Scope) aggregates(m *deja.Machine) []string {
	if s.aggregate == "" {
		return m.Aggregates()
	}
	return []string{s.aggregate}
}
