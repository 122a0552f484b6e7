package sqlite_test

import "testing"

// What is acknowledged is synced. No test can pull the plug, so this one reads back what SQLite was told.
func TestSettingsAreDurable(t *testing.T) {
	db := open(t, newPath(t))
	for pragma, want := range map[string]string{
		"synchronous": "2", "fullfsync": "1", "checkpoint_fullfsync": "1", "journal_mode": "wal", "wal_autocheckpoint": "0",
	} {
		if got := db.Pragma(t, pragma); got != want {
			t.Errorf("%s is %s, want %s", pragma, got, want)
		}
	}
}
