//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// servers are a Kafka and a PostgreSQL of the run's own, in a folder of its own.
type servers struct {
	root, dir string
	brokers   string // host:port
	dsn       string
	programs  string // PostgreSQL's

	mu  sync.Mutex // one call of the script at a time
	log *os.File
}

// startServers starts them.
func startServers(ctx context.Context, root, dir string) (*servers, error) {
	log, err := os.Create(filepath.Join(dir, "services.log"))
	if err != nil {
		return nil, err
	}
	s := &servers{root: root, dir: filepath.Join(dir, "servers"), log: log}
	out, err := s.script(ctx, "up", "--own")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "DEJA_TEST_KAFKA":
			s.brokers = value
		case "DEJA_TEST_POSTGRES":
			s.dsn = value
		}
	}
	if s.brokers == "" || s.dsn == "" {
		return nil, fmt.Errorf("scripts/services up printed no addresses: %q", out)
	}
	s.programs, err = findPrograms()
	return s, err
}

// database makes a database and returns its DSN.
func (s *servers) database(ctx context.Context, name string) (string, error) {
	if err := inDatabase(ctx, s.dsn, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	u, err := url.Parse(s.dsn)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}

// script runs scripts/services.
func (s *servers) script(ctx context.Context, args ...string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := exec.CommandContext(ctx, filepath.Join(s.root, "scripts", "services"), append(args, "--dir", s.dir)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, s.log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("scripts/services %s: %w; see %s", strings.Join(args, " "), err, s.log.Name())
	}
	return out.String(), nil
}

// stop stops both for good; purge removes their data.
func (s *servers) stop(ctx context.Context, purge bool) error {
	args := []string{"down"}
	if purge {
		args = append(args, "--purge")
	}
	_, err := s.script(ctx, args...)
	return err
}

// findPrograms returns the folder of pg_dump and psql.
func findPrograms() (string, error) {
	folders, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is a good one
	for i := len(folders) - 1; i >= 0; i-- {
		if _, err := os.Stat(filepath.Join(folders[i], "pg_dump")); err == nil {
			return folders[i], nil
		}
	}
	path, err := exec.LookPath("pg_dump")
	if err != nil {
		return "", fmt.Errorf("pg_dump of PostgreSQL is needed: %w", err)
	}
	return filepath.Dir(path), nil
}

// dump writes a store's schema into a file, as of one moment.
func (s *servers) dump(ctx context.Context, at *where, file string) error {
	return s.program(ctx, "pg_dump", "--schema="+at.schema, "--file="+file, at.dsn)
}

// restore puts a store's schema back to where it was dumped.
func (s *servers) restore(ctx context.Context, at *where, file string) error {
	return s.program(ctx, "psql", "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1",
		"--command=SET lock_timeout = '5s'; DROP SCHEMA IF EXISTS "+at.schema+" CASCADE", "--file="+file, at.dsn)
}

func (s *servers) program(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.programs, name), args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}
