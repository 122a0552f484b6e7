package history

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/dejalog/deja"
)

// A Redaction replaces texts by a keyed hash of them: equal texts stay equal, different ones different, and who has not the
// key cannot try out which text it was. Numbers and keys of streams stay, as what is decided rests on them.
type Redaction struct {
	Key    []byte   // at least 16 bytes
	Fields []string // of commands and events, <type>.<path>: account.enter.operation, or *.<path> of any type
}

// ErrRedaction is returned where something cannot be redacted.
var ErrRedaction = errors.New("it cannot be redacted")

// Valid returns nil if a redaction can be used.
func (r *Redaction) Valid() error {
	if len(r.Key) < 16 {
		return fmt.Errorf("%w: the key has %d bytes, want 16 or more", ErrRedaction, len(r.Key))
	}
	for _, f := range r.Fields {
		if i := strings.LastIndexByte(f, '.'); i < 1 || i == len(f)-1 {
			return fmt.Errorf("%w: field %q: want <type>.<path>, such as account.enter.operation, or *.<path>", ErrRedaction, f)
		}
	}
	return nil
}

// replaced are texts that were redacted, and what stands for them.
type replaced map[string]string

// in redacts the texts in one that was made of them, such as the reason of a refusal: longer ones first, as they may hold
// shorter ones.
func (r replaced) in(text string) string {
	texts := slices.SortedFunc(maps.Keys(r), func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	var pairs []string
	for _, t := range texts {
		pairs = append(pairs, t, r[t])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// message redacts a message. Actor and headers go with it: they are about people and machines, and nothing is decided by them.
func (r *Redaction) message(env *deja.Envelope) (replaced, error) {
	done := replaced{}
	if env.Actor != "" {
		done[env.Actor] = r.hash(env.Actor)
		env.Actor = done[env.Actor]
	}
	env.Headers = nil
	return done, r.payload(env, done)
}

// payload redacts a payload, and notes what it has replaced.
func (r *Redaction) payload(env *deja.Envelope, done replaced) error {
	var paths []string
	for _, f := range r.Fields {
		if path, ok := strings.CutPrefix(f, "*."); ok {
			paths = append(paths, path)
		} else if path, ok := strings.CutPrefix(f, env.Type+"."); ok {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	if env.ContentType != "application/json" {
		return fmt.Errorf("%w: %s has the content type %s, and only JSON has fields", ErrRedaction, env.Type, env.ContentType)
	}
	data, err := r.texts(env.Payload, paths, done)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrRedaction, env.Type, err)
	}
	env.Payload = data
	return nil
}

// texts replaces the texts at some paths, and leaves all else as it is, byte by byte. A path leads through lists to each of
// their elements.
func (r *Redaction) texts(data []byte, paths []string, done replaced) ([]byte, error) {
	var (
		out    []byte
		copied int64
		open   []level
		dec    = json.NewDecoder(bytes.NewReader(data))
	)
	dec.UseNumber()
	for {
		begin := dec.InputOffset()
		t, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return append(out, data[copied:]...), nil
		}
		if err != nil {
			return nil, err
		}
		top := len(open) - 1
		if d, ok := t.(json.Delim); ok {
			if d == '}' || d == ']' {
				if open = open[:top]; top > 0 {
					open[top-1].key = open[top-1].object
				}
				continue
			}
			at := pathOf(open)
			open = append(open, level{path: at, object: d == '{', key: d == '{'})
			continue
		}
		if top >= 0 && open[top].object && open[top].key {
			open[top].name, open[top].key = t.(string), false
			continue
		}
		path := pathOf(open)
		if top >= 0 {
			open[top].key = open[top].object
		}
		if t == nil || t == "" || !slices.Contains(paths, path) {
			continue
		}
		text, ok := t.(string)
		if !ok {
			return nil, fmt.Errorf("%s is no text, and what is decided may rest on it", path)
		}
		begin += int64(bytes.IndexByte(data[begin:], '"'))
		out = append(append(out, data[copied:begin]...), '"')
		done[text] = r.hash(text)
		out = append(append(out, done[text]...), '"')
		copied = dec.InputOffset()
	}
}

// level is an object or a list that is open.
type level struct {
	path   string // to it
	object bool
	key    bool // a key comes next
	name   string
}

// pathOf returns the path to the value that comes next. Lists add nothing to it.
func pathOf(open []level) string {
	if len(open) == 0 {
		return ""
	}
	top := open[len(open)-1]
	switch {
	case !top.object:
		return top.path
	case top.path == "":
		return top.name
	}
	return top.path + "." + top.name
}

func (r *Redaction) hash(text string) string {
	mac := hmac.New(sha256.New, r.Key)
	mac.Write([]byte(text))
	return "redacted-" + hex.EncodeToString(mac.Sum(nil)[:12])
}
