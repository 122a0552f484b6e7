package deja

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dejalog/deja/internal/canon"
)

// Compile checks a service and returns its machine. All faults are reported together.
func Compile(s *Service) (*Machine, error) {
	if s == nil {
		return nil, errors.New("the service is nil")
	}
	c := compiler{m: &Machine{
		name: s.Name, codec: s.Codec, tables: map[string]*ruleTable{}, upcasters: map[string]Upcaster{},
		projections: s.Projections, projectors: map[string][]projector{},
	}}
	if c.m.codec == nil {
		c.m.codec = JSON()
	}
	if !validName(s.Name) {
		c.fault("service name %q: want lower-case letters, digits, '-', '_' and '.'", s.Name)
	}
	if len(s.Aggregates) == 0 {
		c.fault("service %s has no aggregates", s.Name)
	}
	for _, a := range s.Aggregates {
		c.aggregate(a)
	}
	c.upcasters(s.Upcasters)
	c.projections(s.Projections)
	if len(c.faults) > 0 {
		return nil, fmt.Errorf("service %s: %w", s.Name, errors.Join(c.faults...))
	}
	c.m.fold = c.fingerprint()
	return c.m, nil
}

type compiler struct {
	m      *Machine
	faults []error
	folds  []string // what the fold version is made of
}

func (c *compiler) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

func (c *compiler) aggregate(a AnyAggregate) {
	if a == nil || reflect.ValueOf(a).IsNil() || a.definition() == nil {
		c.fault("an aggregate is nil, or was not made by NewAggregate")
		return
	}
	def := a.definition()
	if !validName(def.name) || strings.HasPrefix(def.name+".", reservedPrefix) {
		c.fault("aggregate name %q: want lower-case letters, digits, '-', '_' and '.', and not deja", def.name)
	}
	if _, twice := c.m.tables[def.name]; twice {
		c.fault("two aggregates are named %s", def.name)
	}
	t := &ruleTable{definition: def, flat: flat(def.state), rows: map[rowKey]*row{}}
	c.m.tables[def.name] = t
	shape, err := canon.ShapeOf(def.state)
	if err != nil {
		c.fault("aggregate %s: state %s: %w", def.name, def.state, err)
	} else {
		t.shape = shape
		c.folds = append(c.folds, "state "+def.name+" "+shape.String())
	}
	for i := range def.rows {
		c.row(t, &def.rows[i])
	}
	c.saga(t)
	if slices.ContainsFunc(def.rows, func(r row) bool { return r.kind == rowReact }) {
		c.m.reacting = append(c.m.reacting, t.name)
		slices.Sort(c.m.reacting)
	}
	if !slices.ContainsFunc(def.rows, func(r row) bool { return r.decide != nil }) {
		c.fault("aggregate %s handles nothing: give it a Handle row", def.name)
	}
}

func (c *compiler) row(t *ruleTable, r *row) {
	if r.kind == rowFold {
		c.folds = append(c.folds, fmt.Sprintf("fold %s %d", t.name, r.version))
		if r.missing {
			c.fault("aggregate %s: FoldVersion %d: want 1 or more", t.name, r.version)
		}
		return
	}
	if r.kind == rowWithin {
		return
	}
	name := fmt.Sprintf("aggregate %s: %s row for %q", t.name, r.kind, r.wire)
	agg, err := aggregateOf(r.wire)
	if err != nil {
		c.fault("%s: %w", name, err)
	} else if own := r.kind == rowHandle || r.kind == rowApply || r.kind == rowEnds || r.kind == rowSticks; own && agg != t.name {
		c.fault("%s: the name belongs to aggregate %s; commands go, and events belong, where their name says", name, agg)
	}
	if r.missing {
		c.fault("%s: the function is nil", name)
	}
	if _, twice := t.rows[r.rowKey]; twice {
		c.fault("%s: there are two", name)
	}
	if other := (rowKey{rowForget, r.wire}); r.kind == rowReply && t.rows[other] != nil {
		c.fault("%s: there is a Forget row, too", name)
	} else if other.kind = rowReply; r.kind == rowForget && t.rows[other] != nil {
		c.fault("%s: there is an OnReply row, too", name)
	}
	t.rows[r.rowKey] = r
	if r.kind == rowHandle || r.kind == rowApply {
		c.payload(name, r.payload)
	}
	if r.kind == rowApply {
		c.folds = append(c.folds, "apply "+r.wire+" "+c.shape(r.payload))
	}
}

// payload refuses what would be lost on the way through JSON. Other codecs know their own types.
func (c *compiler) payload(name string, t reflect.Type) {
	if c.m.codec.ContentType() != "application/json" {
		return
	}
	if _, err := canon.ShapeOf(t); err != nil {
		c.fault("%s: payload %s: %w", name, t, err)
	}
}

// shape describes a payload type for the fold version: an event that reads other members folds into another state.
func (c *compiler) shape(t reflect.Type) string {
	if s, err := canon.ShapeOf(t); err == nil {
		return c.m.codec.ContentType() + " " + s.String()
	}
	return c.m.codec.ContentType() // another codec's type, or a fault that is reported
}

// flat reports whether a copy of a value shares nothing with it.
func flat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Map, reflect.Slice, reflect.Pointer, reflect.Interface, reflect.Chan, reflect.Func, reflect.UnsafePointer:
		return false
	case reflect.Array:
		return flat(t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() { // its pointer is to a time zone, which nobody can change
			return true
		}
		for i := range t.NumField() {
			if !flat(t.Field(i).Type) {
				return false
			}
		}
	default: // numbers, strings, booleans
	}
	return true
}

func (c *compiler) upcasters(us []Upcaster) {
	for _, u := range us {
		if _, twice := c.m.upcasters[u.from]; twice {
			c.fault("two upcasters from %s", u.from)
		}
		if u.missing {
			c.fault("upcaster from %s: the function is nil", u.from)
		}
		c.m.upcasters[u.from] = u
		c.folds = append(c.folds, "upcast "+u.from+" "+u.to+" "+c.shape(u.old))
		c.upcaster(u)
	}
	for _, u := range us {
		if err := c.m.chain(u); err != nil {
			c.faults = append(c.faults, err)
		}
	}
}

// upcaster checks one upcaster by itself.
func (c *compiler) upcaster(u Upcaster) {
	from, err := aggregateOf(u.from)
	if err != nil {
		c.fault("upcaster from %s: %w", u.from, err)
	}
	if to, err := aggregateOf(u.to); err == nil && to != from {
		c.fault("upcaster from %s to %s: an event stays with its aggregate", u.from, u.to)
	}
	if t, ok := c.m.tables[from]; ok && t.has(rowApply, u.from) {
		c.fault("upcaster from %s: its aggregate has an Apply row for that, which would come first", u.from)
	}
}

// chain follows an upcaster to an event that some aggregate applies or reacts to.
func (m *Machine) chain(u Upcaster) error {
	for range len(m.upcasters) {
		agg, err := aggregateOf(u.to)
		if err != nil {
			return fmt.Errorf("upcaster from %s: %w", u.from, err)
		}
		if t, ok := m.tables[agg]; ok && t.has(rowApply, u.to) || m.reacts(u.to) {
			return nil
		}
		next, ok := m.upcasters[u.to]
		if !ok {
			return fmt.Errorf("upcaster from %s to %s: no aggregate applies %s, or reacts to it", u.from, u.to, u.to)
		}
		u = next
	}
	return fmt.Errorf("upcasters from %s go round in a circle", u.from)
}

// reacts reports whether some aggregate reacts to an event, as it is.
func (m *Machine) reacts(event string) bool {
	return slices.ContainsFunc(m.reacting, func(name string) bool { return m.tables[name].has(rowReact, event) })
}

var tableName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

func (c *compiler) projections(ps []*Projection) {
	names, tables := map[string]bool{}, map[string]bool{}
	for _, p := range ps {
		if p == nil {
			c.fault("a projection is nil")
			continue
		}
		if !validName(p.name) || names[p.name] {
			c.fault("projection name %q is taken or not of lower-case letters, digits, '-', '_' and '.'", p.name)
		}
		names[p.name] = true
		for _, t := range p.tables {
			if !tableName.MatchString(t.name) || strings.HasPrefix(t.name, "deja_") || strings.HasPrefix(t.name, "sqlite_") || tables[t.name] {
				c.fault("projection %s: table name %q is taken, reserved or not a plain lower-case name", p.name, t.name)
			}
			tables[t.name] = true
			c.folds = append(c.folds, "table "+t.name+" "+t.ddl)
		}
		for _, part := range p.parts {
			c.projector(p, part)
		}
	}
}

func (c *compiler) projector(p *Projection, part projector) {
	agg, err := aggregateOf(part.event)
	if err != nil {
		c.fault("projection %s: %w", p.name, err)
		return
	}
	if t, ok := c.m.tables[agg]; !ok || !t.has(rowApply, part.event) {
		c.fault("projection %s: no aggregate of the service applies %s", p.name, part.event)
	}
	c.m.projectors[part.event] = append(c.m.projectors[part.event], part)
	c.folds = append(c.folds, "project "+p.name+" "+part.event)
}

func (c *compiler) fingerprint() string {
	slices.Sort(c.folds)
	sum := sha256.Sum256([]byte(strings.Join(c.folds, "\n")))
	return hex.EncodeToString(sum[:8])
}

// Aggregates returns the aggregates' names, sorted.
func (m *Machine) Aggregates() []string { return slices.Sorted(maps.Keys(m.tables)) }
