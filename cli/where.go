package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// where says where a command looks: at a database, or at a log and perhaps a store.
type where struct {
	db         string
	log, store string
}

// kind is what an address leads to.
type kind uint8

const (
	aFile kind = iota // an embedded database
	anArchive
	aPostgres
	aKafka
)

const archiveScheme = "archive://"

// kindOf tells what an address leads to.
func kindOf(address string) (kind, error) {
	scheme, _, ok := strings.Cut(address, "://")
	switch {
	case !ok:
		if info, err := os.Stat(address); err == nil && info.IsDir() {
			return anArchive, nil
		}
		return aFile, nil
	case scheme == "kafka":
		return aKafka, nil
	case scheme == "postgres", scheme == "postgresql":
		return aPostgres, nil
	case address == archiveScheme+pathOf(address):
		return anArchive, nil
	}
	return 0, Usagef("%s: there is no %s://; there are kafka://, postgres://, archive:// and plain files", redact(address), scheme)
}

// pathOf returns the path of a file or an archive.
func pathOf(address string) string { return strings.TrimPrefix(address, archiveScheme) }

// where reads flags and environment. Flags go before the environment, all of it: one that names a log or a store is not
// mixed with a database there, nor the other way round.
func (e *Env) where() (where, error) {
	w := e.given
	if w.db != "" && (w.log != "" || w.store != "") {
		return w, Usagef("--db is log and store in one: it does not go with --log and --store")
	}
	env := where{e.getenv("DEJA_DB"), e.getenv("DEJA_LOG"), e.getenv("DEJA_STORE")}
	switch {
	case w.db != "":
		return w, w.check()
	case w.log == "" && w.store == "":
		w = env
		if w.db != "" && (w.log != "" || w.store != "") {
			return w, Usagef("DEJA_DB is set, and so is DEJA_LOG or DEJA_STORE: which of them is meant? Unset one, or use a flag")
		}
	case w.log == "":
		w.log = env.log
	case w.store == "" && !e.storeless(w.log):
		w.store = env.store
	}
	if w == (where{}) {
		w.db = e.defaultDB()
	}
	return w, w.check()
}

// storeless reports whether what is at an address has no store beside it: an archive, whatever DEJA_STORE says.
func (e *Env) storeless(log string) bool {
	k, err := kindOf(log)
	return err == nil && k == anArchive
}

// check returns an error for what does not go together.
func (w where) check() error {
	if w.db != "" {
		switch k, err := kindOf(w.db); {
		case err != nil:
			return err
		case k == aKafka:
			return Usagef("a Kafka cluster is a log, and no database: name it with --log")
		}
		return nil
	}
	if w.log == "" {
		return Usagef("--store alone tells nothing of the past: name the log with --log; where it is the same database, both have the same URL")
	}
	log, err := kindOf(w.log)
	if err != nil || w.store == "" {
		return err
	}
	switch store, err := kindOf(w.store); {
	case err != nil:
		return err
	case store == aKafka:
		return Usagef("--store: a Kafka cluster is a log, and no store; a postgres:// is one")
	case store == anArchive:
		return Usagef("--store: an archive is a log, and no store")
	case log == anArchive:
		return Usagef("an archive is read without a store: leave --store out")
	case (log == aFile || store == aFile) && w.log != w.store:
		return Usagef("a file is log and store in one: name it with --db")
	}
	return nil
}

// servers reports whether it is no file and no archive: then several processes may work on it at once.
func (w where) servers() bool {
	for _, address := range []string{w.db, w.log} {
		if k, err := kindOf(address); address != "" && err == nil && k != aFile && k != anArchive {
			return true
		}
	}
	return false
}

// String names the place, without secrets.
func (w where) String() string {
	switch {
	case w.db != "":
		return redact(w.db)
	case w.store == "" || w.store == w.log:
		return redact(w.log)
	}
	return redact(w.log) + " and " + redact(w.store)
}

// flags returns the place as flags for another command, without secrets; none if it comes from the environment or is the
// default.
func (e *Env) flags() string {
	var line string
	for _, f := range []struct{ name, value string }{{"db", e.given.db}, {"log", e.given.log}, {"store", e.given.store}} {
		if f.value != "" && (f.name != "db" || f.value != e.defaultDB()) {
			line += " --" + f.name + " " + quote(redact(f.value))
		}
	}
	return line
}

// environment returns the place as variables for a process of this program: a command line can be seen by all.
func (w where) environment() []string {
	return []string{"DEJA_DB=" + w.db, "DEJA_LOG=" + w.log, "DEJA_STORE=" + w.store}
}

var (
	userinfo  = regexp.MustCompile(`(://[^/?#@:]*):[^/?#]*@`)
	passwords = regexp.MustCompile(`((?:^|[?&\s])(?:ssl)?password=)('[^']*'|[^&\s]*)`)
)

// redact returns an address as it may be shown.
func redact(address string) string {
	return passwords.ReplaceAllString(userinfo.ReplaceAllString(address, "$1:xxxxx@"), "${1}xxxxx")
}

// secrets returns what of an address must never be shown, in all its spellings.
func secrets(address string) (all []string) {
	for _, m := range userinfo.FindAllString(address, -1) {
		_, s, _ := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(m, "@"), "://"), ":")
		all = append(all, ":"+s+"@")
		if plain, err := url.PathUnescape(s); err == nil && plain != s {
			all = append(all, ":"+plain+"@")
		}
	}
	return all
}

// cleaner is a writer through which no secret goes.
type cleaner struct {
	io.Writer
	secrets []string
}

// Write implements [io.Writer]. It answers as if all had been written as it was.
func (c *cleaner) Write(b []byte) (int, error) {
	clean := passwords.ReplaceAll(b, []byte("${1}xxxxx"))
	for _, s := range c.secrets {
		clean = bytes.ReplaceAll(clean, []byte(s), []byte(":xxxxx@"))
	}
	if _, err := c.Writer.Write(clean); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	return len(b), nil
}

// keepSecrets lets nothing of the passwords in flags and environment out.
func (e *Env) keepSecrets() {
	var all []string
	for _, address := range []string{e.given.db, e.given.log, e.given.store, e.getenv("DEJA_DB"), e.getenv("DEJA_LOG"), e.getenv("DEJA_STORE")} {
		all = append(all, secrets(address)...)
	}
	if len(all) > 0 {
		e.Stderr = &cleaner{e.Stderr, all}
	}
}
