package cli

import (
	"archive/zip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/replay"
)

func (e *Env) bundleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Share a part of the history: messages, decisions and states, redacted if need be",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(e.bundleExport(), e.bundleOpen())
	return cmd
}

func (e *Env) bundleExport() *cobra.Command {
	var x exporting
	cmd := &cobra.Command{
		Use:   "export SCOPE --out FILE",
		Short: "Write the history of some keys to a file that others can open",
		Long: `Write the history of some keys, such as account/576 or account/*, to FILE: all deliveries of their messages, what was
decided, and the states, as a database that every command reads; with it a manifest of what it is, where it was taken from, and its digests.

--when notes a condition that holds at the end, such as the fault it is about: it is checked in the bundle, after redaction,
and again when the bundle is opened. --redact replaces texts by a hash with a key: equal texts stay equal. A FIELD is
TYPE.PATH, such as account.enter.operation, or *.PATH for all types; or a class of fields that the service declares.
Actors and headers are redacted with them. Numbers, IDs and the keys of streams stay, as what is decided rests on them.`,
		Example: e.examples("bundle export "+e.exampleKey("576")+" --out fault.bundle --when 'state.balance < 0'",
			"bundle export "+e.exampleKey("576")+" --out fault.bundle --redact personal --redact-key-file secret"),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := x.at.parse(e); err != nil {
				return err
			}
			x.scope = args[0]
			return e.export(cmd.Context(), &x)
		},
	}
	cmd.Flags().StringVar(&x.out, "out", "", "the `FILE` to write")
	cmd.Flags().StringVar(&x.when, "when", "", "a `PREDICATE` that holds of a key at the end")
	cmd.Flags().StringArrayVar(&x.redact, "redact", nil, "a `FIELD` or a class of fields to redact; may be repeated")
	cmd.Flags().StringVar(&x.keyFile, "redact-key-file", "", "a `FILE` whose content is the key to hash with; without it a key is made and thrown away")
	e.addIndexFlags(cmd)
	x.at.addFlags(cmd, "at", "how far, a `LOCATOR`")
	if err := cmd.MarkFlagRequired("out"); err != nil { // there is no such flag
		panic(err)
	}
	return cmd
}

// exporting is what `bundle export` is asked for.
type exporting struct {
	scope, out, when, keyFile string
	redact                    []string
	at                        moment
}

// A Bundle is the manifest of a bundle.
type Bundle struct {
	Format    int            `json:"format"`
	Service   string         `json:"service"`
	Scope     string         `json:"scope"`
	Source    []bundleSource `json:"source"` // where it was cut off in the history that it was taken from
	Messages  int64          `json:"messages"`
	Decisions int64          `json:"decisions"`
	LeftOut   int64          `json:"left_out"` // conflicts with messages of other keys
	Builds    []string       `json:"builds"`   // that decided
	Fold      string         `json:"fold"`
	StateHash replay.Hash    `json:"state_hash"`
	Redacted  []string       `json:"redacted"`
	When      string         `json:"when,omitempty"`
	Holds     []string       `json:"holds,omitempty"` // the keys of which it holds at the end
	SHA256    string         `json:"sha256"`          // of the database
}

type bundleSource struct {
	Position string `json:"position"`
	N        int64  `json:"n"`
	Chain    string `json:"chain"`
}

const (
	bundleFormat   = 1
	bundleManifest = "bundle.json"
	bundleDatabase = "history.db"
)

func (e *Env) export(ctx context.Context, x *exporting) (err error) {
	if there, err := exists(x.out); err != nil || there {
		return errors.Join(err, Usagef("--out %s: it is there already; name a new file", x.out))
	}
	excerpt, err := e.excerpt(x)
	if err != nil {
		return err
	}
	var when history.Predicate
	if x.when != "" {
		if when, err = e.whenFlag(excerpt.Scope, x.when); err != nil {
			return err
		}
	}
	db, h, lim, err := e.openPart(ctx, &x.at)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	excerpt.Limits = lim
	dir, err := os.MkdirTemp(filepath.Dir(x.out), ".bundle-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, bundleDatabase)
	var taken *history.Taken
	b := Bundle{Format: bundleFormat, Service: e.app.Service.Name, Scope: x.scope, Fold: e.machine.FoldVersion(), Redacted: []string{}}
	b.StateHash, err = e.fill(ctx, path, "", func(t replay.Target) error {
		taken, err = h.Take(ctx, excerpt, t)
		return err
	})
	if err != nil {
		return err
	}
	b.Messages, b.Decisions, b.LeftOut, b.Builds = taken.Messages, taken.Decisions, taken.LeftOut, taken.Builds
	if b.Decisions == 0 {
		return Nof("nothing was decided for %s up to %s", x.scope, x.at.at)
	}
	if excerpt.Redact != nil {
		b.Redacted = excerpt.Redact.Fields
	}
	for _, p := range taken.Points {
		b.Source = append(b.Source, bundleSource{e.inbox(p.Partition, p.Covers).String(), p.N, hex.EncodeToString(p.Chain[:])})
	}
	if x.when != "" {
		if err := e.checkBundled(ctx, h, x, excerpt, when, path, &b); err != nil {
			return err
		}
	}
	if b.SHA256, err = digest(path); err != nil {
		return err
	}
	if err := pack(x.out, path, &b); err != nil {
		return err
	}
	return e.printBundle(&b, x.out)
}

// excerpt reads what is to be taken.
func (e *Env) excerpt(x *exporting) (ex history.Excerpt, err error) {
	if ex.Scope, err = e.scope(x.scope); err != nil {
		return ex, err
	}
	if len(x.redact) == 0 {
		if x.keyFile != "" {
			return ex, Usagef("--redact-key-file without --redact")
		}
		return ex, nil
	}
	r := &history.Redaction{Key: newKey()}
	for _, f := range x.redact {
		if fields, ok := e.app.Classes[f]; ok {
			r.Fields = append(r.Fields, fields...)
		} else if strings.Contains(f, ".") {
			r.Fields = append(r.Fields, f)
		} else {
			return ex, Usagef("--redact %s: the service declares no such class of fields; a field is written TYPE.PATH", f)
		}
	}
	slices.Sort(r.Fields)
	r.Fields = slices.Compact(r.Fields)
	if x.keyFile != "" {
		if r.Key, err = os.ReadFile(x.keyFile); err != nil {
			return ex, Usagef("--redact-key-file: %w", err)
		}
	}
	if err := r.Valid(); err != nil {
		return ex, Usagef("--redact: %w", err)
	}
	ex.Redact = r
	return ex, nil
}

// newKey makes a key that nobody keeps.
func newKey() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	return key
}

// checkBundled notes of which keys the condition holds at the end of the bundle: it must be those of which it did in the
// history.
func (e *Env) checkBundled(ctx context.Context, h *history.History, x *exporting, ex history.Excerpt, when history.Predicate, path string, b *Bundle) error {
	want, err := holds(ctx, h, ex.Scope, when, ex.Limits)
	if err != nil {
		return err
	}
	if len(want) == 0 {
		return Nof("%s holds of none of %s at %s: nothing was written", x.when, x.scope, x.at.at)
	}
	b.When = x.when
	if b.Holds, err = e.holdsIn(ctx, path, ex.Scope, when); err != nil {
		return err
	}
	if !slices.Equal(want, b.Holds) {
		return Nof("%s holds of %s, and in the bundle of %s: what is redacted takes the fault away; nothing was written",
			x.when, strings.Join(want, ", "), strings.Join(b.Holds, ", "))
	}
	return nil
}

// holds returns the keys of which a condition holds at the end of the limits.
func holds(ctx context.Context, h *history.History, s history.Scope, p history.Predicate, to history.Limits) ([]string, error) {
	var keys []string
	for holding, err := range h.WhenBrief(ctx, s, p, to) {
		if err != nil {
			return nil, err
		}
		if n := len(holding.Intervals); n > 0 && holding.Intervals[n-1].To == nil {
			keys = append(keys, keyText(holding.Key))
		}
	}
	return keys, nil
}

// holdsIn returns the keys of which a condition holds at the end of a file.
func (e *Env) holdsIn(ctx context.Context, path string, s history.Scope, p history.Predicate) (keys []string, err error) {
	db, err := e.OpenReader(ctx, path)
	if err != nil {
		return nil, err
	}
	defer db.CloseInto(&err)
	h, err := history.Open(ctx, history.Config{Service: e.app.Service, Log: db.Log, Ledger: db.Reader, Build: engine.Build()})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	return holds(ctx, h, s, p, h.All())
}

func digest(path string) (_ string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// pack writes a bundle. The file is whole, or not there.
func pack(out, database string, b *Bundle) (err error) {
	f, err := os.CreateTemp(filepath.Dir(out), ".bundle-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	z := zip.NewWriter(f)
	if err := pour(z, database, b); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(z.Close(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), out) // not Rename: what came there meanwhile stays
}

func pour(z *zip.Writer, database string, b *Bundle) (err error) {
	w, err := z.Create(bundleManifest)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(b); err != nil {
		return err
	}
	if w, err = z.Create(bundleDatabase); err != nil {
		return err
	}
	src, err := os.Open(database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	_, err = io.Copy(w, src)
	return err
}

func (e *Env) printBundle(b *Bundle, file string) error {
	if e.json {
		return e.Answer(b)
	}
	var from []string
	for _, s := range b.Source {
		if s.N > 0 {
			from = append(from, s.Position)
		}
	}
	holds := ""
	if b.When != "" {
		holds = fmt.Sprintf("%s, of %s", b.When, strings.Join(b.Holds, ", "))
	}
	left := ""
	if b.LeftOut > 0 {
		left = plural(b.LeftOut, "conflict") + " with messages of other keys"
	}
	return e.fields("bundle", file, "service", b.Service, "of", b.Scope, "up to", strings.Join(from, ","), "messages", b.Messages,
		"decisions", b.Decisions, "left out", left, "decided by", strings.Join(b.Builds, "\n"), "redacted", strings.Join(b.Redacted, "\n"),
		"holds", holds, "state hash", b.StateHash)
}

func (e *Env) bundleOpen() *cobra.Command {
	var into string
	cmd := &cobra.Command{
		Use:   "open FILE --into DB",
		Short: "Unpack a bundle, and check it",
		Long: `Unpack a bundle into the database DB, which every command reads with --db, and check its digests, the hash of its states and the
condition that is noted in it, with this program. It answers no, exit code 1, if this program's states are others than
those that were noted, or the condition does not hold of the same keys.`,
		Example: e.examples("bundle open fault.bundle --into fault.db"),
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return e.openBundle(cmd.Context(), args[0], into) },
	}
	cmd.Flags().StringVar(&into, "into", "", "the `DB` to make, a new file")
	if err := cmd.MarkFlagRequired("into"); err != nil { // there is no such flag
		panic(err)
	}
	return cmd
}

func (e *Env) openBundle(ctx context.Context, file, into string) (err error) {
	z, err := zip.OpenReader(file)
	if err != nil {
		return Usagef("%s is no bundle: %w", file, err)
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	b, err := manifest(&z.Reader)
	if err != nil {
		return Usagef("%s is no bundle: %w", file, err)
	}
	switch {
	case b.Format != bundleFormat:
		return Usagef("%s has format %d, this program reads %d: use the program that wrote it, or a newer one", file, b.Format, bundleFormat)
	case b.Service != e.app.Service.Name:
		return Usagef("%s is of the service %s, not of %s", file, b.Service, e.app.Service.Name)
	}
	if err := unpack(&z.Reader, into, b); err != nil {
		return err
	}
	if err := e.checkOpened(ctx, into, b); err != nil {
		return err
	}
	if err := e.printBundle(b, file); err != nil {
		return err
	}
	e.Notef("%s is a past: every command reads it with --db %s", into, quote(into))
	return nil
}

func manifest(z *zip.Reader) (_ *Bundle, err error) {
	f, err := z.Open(bundleManifest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := new(Bundle)
	return b, json.NewDecoder(io.LimitReader(f, 1<<20)).Decode(b)
}

// unpack writes the database of a bundle to a new file, or leaves nothing.
func unpack(z *zip.Reader, into string, b *Bundle) (err error) {
	src, err := z.Open(bundleDatabase)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := os.OpenFile(into, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return Usagef("--into: %w", err)
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(dst, h), src)
	if err == nil && hex.EncodeToString(h.Sum(nil)) != b.SHA256 {
		err = errors.New("the bundle is damaged: its database is not the one that was packed")
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return errors.Join(err, os.Remove(into))
	}
	return noteHash(into, b.StateHash)
}

// checkOpened checks a bundle's database by this program.
func (e *Env) checkOpened(ctx context.Context, path string, b *Bundle) (err error) {
	db, err := e.OpenReader(ctx, path)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	a, err := e.Replay(ctx, db, replay.Options{})
	if err != nil {
		return err
	}
	if a.StateHash != b.StateHash {
		return Nof("this program folds the bundle to the state hash %s, noted is %s: it was made by a program that applies events otherwise (fold %s, this one has %s)",
			a.StateHash, b.StateHash, b.Fold, e.machine.FoldVersion())
	}
	if b.When == "" {
		return nil
	}
	scope, when, err := e.predicate(b.Scope, b.When)
	if err != nil {
		return err
	}
	keys, err := e.holdsIn(ctx, path, scope, when)
	if err != nil {
		return err
	}
	if !slices.Equal(keys, b.Holds) {
		return Nof("%s is noted to hold of %s; it holds of %s", b.When, strings.Join(b.Holds, ", "), strings.Join(keys, ", "))
	}
	return nil
}
