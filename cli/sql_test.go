package cli_test

import (
	"errors"

	"github.com/rogpeppe/go-internal/testscript"
	zombie "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// execSQL runs statements on a database behind the program's back.
func execSQL(ts *testscript.TestScript, _ bool, args []string) {
	c, err := zombie.OpenConn(ts.MkAbs(args[0]), zombie.OpenReadWrite)
	ts.Check(err)
	for _, sql := range args[1:] {
		if err = sqlitex.ExecuteTransient(c, sql, nil); err != nil {
			break
		}
	}
	ts.Check(errors.Join(err, c.Close()))
}
