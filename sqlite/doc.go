// Package sqlite keeps a service's log and store in one file: SQLite in pure Go, for the embedded mode and for tests.
// It knows nothing of what the bytes of a record mean: see [github.com/dejalog/deja/driver].
//
// Several services can share a file and its log, each in a store of its own: [DB.StoreOf].
//
// One process writes a file at a time, told by a lock on the file's name with .lock behind it; any number of
// processes read it meanwhile. The file system must be a local one. All that is acknowledged was synced.
//
// The lock file also holds the random id that the database was made with. A database beside which that id is not
// found is a copy: two copies that both went on would give the same ids to different futures, so a copy is read-only
// until [Adopt] makes it a database of its own. Nothing of inode, device or path matters, and an older backup of the
// database put back in its place keeps its id: log and store went back together, so it has forgotten what came after
// it, and sending that again is safe.
package sqlite
