package canon_test

import (
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/dejalog/deja/internal/canon"
)

type (
	selfPointer *selfPointer
	small       int
	hidden      struct{ X int64 }
	currency    string
	rate        float64
	money       struct{ Amount float64 }
	badCycle    struct {
		Next *badCycle
		F    float64
	}
	jsonFace  interface{ MarshalJSON() ([]byte, error) }
	fainting  struct{ X int64 }
	keyedByID map[token]int64
)

func (fainting) MarshalJSON() ([]byte, error) { panic("faint") }

func TestShapeOfAccepts(t *testing.T) {
	for _, c := range []struct {
		rule string
		typ  reflect.Type
	}{
		{"all that may be", reflect.TypeFor[wide]()},
		{"pointers to it", reflect.TypeFor[**wide]()},
		{"recursion through pointers, slices and maps", reflect.TypeFor[node]()},
		{"a slice of itself", reflect.TypeFor[loops]()},
		{"scalars of named types", reflect.TypeFor[struct {
			A small
			B currency
			C json.Number
		}]()},
		{"maps with keys of named string types", reflect.TypeFor[map[currency]int64]()},
		{"opaque types, whatever is in them", reflect.TypeFor[struct {
			T time.Time
			R json.RawMessage
			B *big.Int
			F *big.Float
			O object
			M map[string]time.Time
		}]()},
		{"opaque types that panic on zero", reflect.TypeFor[struct{ F fainting }]()},
		{"fields that JSON is told to leave out", reflect.TypeFor[struct {
			F     float64  `json:"-"`
			C     chan int `json:"-"`
			*Base `json:"-"`
		}]()},
		{"blank fields", reflect.TypeFor[struct{ _, _ int64 }]()},
		{"embedded unexported structs, for their exported fields", reflect.TypeFor[struct{ hidden }]()},
		{"the option string", reflect.TypeFor[struct {
			N *int64 `json:",string"`
		}]()},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if _, err := canon.ShapeOf(c.typ); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestShapeOfRefuses(t *testing.T) {
	for _, c := range []struct {
		why  string
		typ  reflect.Type
		want []string // a path and a part of the reason
	}{
		{"nothing", nil, []string{"no type: nil interface"}},
		{"floats, wherever", reflect.TypeFor[struct {
			F float64 `json:"f"`
			R rate
			L []money
			M map[string]*money
			A [2][]float32
		}](), []string{"f: float64", "R: rate", "L.*.Amount: float64", "M.*.Amount: float64", "A.*.*: float32"}},
		{"complex numbers", reflect.TypeFor[struct{ C complex128 }](), []string{"C: no JSON form"}},
		{"channels, functions, addresses", reflect.TypeFor[struct {
			C chan int
			F func()
			P unsafe.Pointer
			U uintptr
		}](), []string{"C: no data", "F: no data", "P: no data", "U: no data"}},
		{"interfaces, empty or not", reflect.TypeFor[struct {
			A any
			E error
			J jsonFace
			M map[string]any
		}](), []string{"A: concrete", "E: concrete", "J: concrete", "M.*: concrete"}},
		{"unexported fields", reflect.TypeFor[struct {
			A int64
			b int64
			c struct{}
			d int64 `json:"-"`
			m sync.Mutex
		}](), []string{"b: not exported", "c: not exported", "d: not exported", "m: not exported"}},
		{"also in embedded structs", reflect.TypeFor[struct{ e struct{ x int64 } }](), []string{"e: not exported"}},
		{"embedded unexported scalars, which JSON leaves out", reflect.TypeFor[struct{ small }](), []string{"small: not exported"}},
		{"embedded pointers to unexported structs, which JSON cannot fill", reflect.TypeFor[struct{ *hidden }](), []string{"hidden: pointer to an embedded"}},
		{"the same under a name", reflect.TypeFor[struct {
			*hidden `json:"h"`
		}](), []string{"hidden: pointer to an embedded"}},
		{"structs that embed themselves", reflect.TypeFor[struct{ Base2 }](), []string{"Base2: in itself"}},
		{"names that differ by case", reflect.TypeFor[struct {
			A int64 `json:"id"`
			B int64 `json:"ID"`
		}](), []string{"ID: differs from id only by case"}},
		{"case beyond ASCII", reflect.TypeFor[struct {
			A int64 `json:"k"`
			B int64 "json:\"\u212a\""
		}](), []string{"[\"\u212a\"]: differs from k only by case"}},
		{"names that encoding/json ignores", reflect.TypeFor[struct {
			A int64 `json:"'a'"`
		}](), []string{"A: tag"}},
		{"names promoted twice, which JSON leaves out", reflect.TypeFor[struct {
			Base
			Other
		}](), []string{"More: two fields"}},
		{"names that hide promoted ones", reflect.TypeFor[struct {
			Base
			More string
		}](), []string{"More: two fields"}},
		{"maps with keys that are no strings", reflect.TypeFor[struct {
			I map[int64]int64
			K keyedByID
			F map[bool]float64
		}](), []string{"I: no strings", "K: no strings", "F.*: float64", "F: no strings"}},
		{"methods of the pointer, which JSON skips", reflect.TypeFor[struct {
			B big.Int
			L []big.Int
		}](), []string{"B: method of its pointer", "L.*: method of its pointer"}},
		{"a pointer to itself", reflect.TypeFor[struct{ P selfPointer }](), []string{"P: leads to no value"}},
		{"once in a cycle", reflect.TypeFor[badCycle](), []string{"F: float64"}},
		{"odd names, quoted", reflect.TypeFor[struct {
			F float64 `json:"a.b"`
		}](), []string{`["a.b"]: float64`}},
		{"the state itself", reflect.TypeFor[float64](), []string{"state: float64"}},
	} {
		t.Run(c.why, func(t *testing.T) {
			shape, err := canon.ShapeOf(c.typ)
			if err == nil || shape != nil {
				t.Fatalf("got %v, %v, want a refusal", shape, err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(c.want) {
				t.Fatalf("got %d faults, want %d:\n%v", len(lines), len(c.want), err)
			}
			for i, w := range c.want {
				path, part, _ := strings.Cut(w, ": ")
				if !strings.HasPrefix(lines[i], path+": ") || !strings.Contains(lines[i], part) {
					t.Errorf("got %s\nwant %s: …%s…", lines[i], path, part)
				}
			}
		})
	}
}

// Other has a field of Base.
type Other struct{ More string }

// Base2 embeds itself, which encoding/json leaves out.
type Base2 struct {
	*Base2
	X int64
}

func TestShapeOfBoundsItsFaults(t *testing.T) {
	type l0 struct{ A, B, C, D float64 }
	type l1 struct{ A, B, C, D l0 }
	type l2 struct{ A, B, C, D l1 }
	type l3 struct{ A, B, C, D l2 }
	_, err := canon.ShapeOf(reflect.TypeFor[l3]())
	if n := strings.Count(err.Error(), "\n") + 1; n != 100 {
		t.Errorf("got %d faults, want 100 of 256", n)
	}
}
