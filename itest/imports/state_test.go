// No package-level mutable state.

package imports

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A package-level variable is a constant that Go has no constants for: an error value, a compiled pattern, a table. So it
// is declared with its value, the value is nothing that exists to be changed (a map from make, a channel, a lock, an
// atomic), and no statement assigns to it, to a part of it, or takes its address. What methods do to a value behind it is
// for reviewers to see.
func TestNoPackageKeepsState(t *testing.T) {
	t.Parallel()
	for _, one := range packages(t) {
		name, _ := short(one.ImportPath)
		if strings.HasPrefix(name, "itest") {
			continue
		}
		files := token.NewFileSet()
		var parsed []*ast.File
		for _, file := range append(append([]string{}, one.GoFiles...), one.IgnoredGoFiles...) {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			// Parsed with the resolution of identifiers, which tells a local variable from a global one of the same name.
			tree, err := parser.ParseFile(files, filepath.Join(one.Dir, file), nil, 0)
			require.NoError(t, err)
			parsed = append(parsed, tree)
		}
		for _, complaint := range stateOf(files, parsed) {
			assert.Fail(t, "package-level state in "+name, complaint)
		}
	}
}

func TestStateIsFound(t *testing.T) {
	t.Parallel()
	const source = `package p
var (
	ErrFine = errors.New("fine")
	pattern = regexp.MustCompile("fine")
	table   = map[string]int{"fine": 1}
	_       = table
	shadow  = 1

	empty   int
	lock    sync.Mutex
	cache   = make(map[string]int)
	counter = 1
	list    = []int{1}
	entry   = struct{ field int }{}
	shared  = 1
	once    = sync.Once{}
	atom    = new(int)
)

func f() {
	shadow := 2
	shadow++
	counter++
	list[0] = 2
	entry.field = 3
	use(&shared, shadow)
}
`
	files := token.NewFileSet()
	tree, err := parser.ParseFile(files, "p.go", source, 0)
	require.NoError(t, err)
	found := map[string]bool{}
	for _, complaint := range stateOf(files, []*ast.File{tree}) {
		_, rest, _ := strings.Cut(complaint, ": ")
		variable, _, _ := strings.Cut(rest, " ")
		found[variable] = true
	}
	assert.Equal(t, map[string]bool{
		"empty": true, "lock": true, "cache": true, "counter": true, "list": true, "entry": true, "shared": true, "once": true,
		"atom": true,
	}, found)
}

// stateOf says what is wrong with the package-level variables of one package.
func stateOf(files *token.FileSet, parsed []*ast.File) []string {
	found := variables{declarations: map[string]any{}}
	for _, file := range parsed {
		found.declared(file)
	}
	for _, file := range parsed {
		ast.Inspect(file, found.used)
	}
	complaints := make([]string, 0, len(found.complaints))
	for _, one := range found.complaints {
		complaints = append(complaints, fmt.Sprintf("%s: %s %s", files.Position(one.at), one.name, one.what))
	}
	return complaints
}

// variables are the package-level variables of one package, and what is wrong with them.
type variables struct {
	// declarations are the *ast.ValueSpec by the variables' names.
	declarations map[string]any
	complaints   []complaint
}

type complaint struct {
	at         token.Pos
	name, what string
}

// declared notes the package-level variables of a file.
func (v *variables) declared(file *ast.File) {
	for _, declaration := range file.Decls {
		general, ok := declaration.(*ast.GenDecl)
		if !ok || general.Tok != token.VAR {
			continue
		}
		for _, spec := range general.Specs {
			values, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for i, name := range values.Names {
				if name.Name == "_" {
					continue
				}
				v.declarations[name.Name] = values
				switch {
				case len(values.Values) == 0:
					v.complaints = append(v.complaints, complaint{name.Pos(), name.Name, "has no value, so it waits for one"})
				case len(values.Values) == len(values.Names) && mutable(values.Values[i]):
					v.complaints = append(v.complaints, complaint{name.Pos(), name.Name, "has a value that exists to be changed"})
				}
			}
		}
	}
}

// mutable tells whether an initial value is of a kind whose only use is to be changed.
func mutable(value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.CallExpr:
		function, ok := v.Fun.(*ast.Ident)
		return ok && (function.Name == "make" || function.Name == "new")
	case *ast.UnaryExpr:
		return v.Op == token.AND && mutable(v.X)
	case *ast.CompositeLit:
		selector, ok := v.Type.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		from, ok := selector.X.(*ast.Ident)
		return ok && (from.Name == "sync" || from.Name == "atomic")
	}
	return false
}

// used notes what changes a package-level variable; it is for ast.Inspect.
func (v *variables) used(node ast.Node) bool {
	changes := func(expression ast.Expr, what string) {
		if name := v.in(expression); name != "" {
			v.complaints = append(v.complaints, complaint{expression.Pos(), name, what})
		}
	}
	switch statement := node.(type) {
	case *ast.AssignStmt:
		for _, left := range statement.Lhs {
			if statement.Tok != token.DEFINE {
				changes(left, "is assigned to")
			}
		}
	case *ast.IncDecStmt:
		changes(statement.X, "is assigned to")
	case *ast.UnaryExpr:
		if statement.Op == token.AND {
			changes(statement.X, "has its address taken")
		}
	case *ast.CallExpr:
		function, ok := statement.Fun.(*ast.Ident)
		if ok && (function.Name == "delete" || function.Name == "clear") {
			changes(statement.Args[0], "is emptied")
		}
	}
	return true
}

// in is the package-level variable that an expression is, or is a part of; "" if there is none.
func (v *variables) in(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.Ident:
		declaration, global := v.declarations[e.Name]
		// What the parser resolves within the file is local, unless it resolves to the global declaration; what it does not
		// resolve is another file's. That is enough here, where go/types would have to load every dependency.
		local := e.Obj != nil && e.Obj.Decl != declaration
		if !global || local {
			return ""
		}
		return e.Name
	case *ast.IndexExpr:
		return v.in(e.X)
	case *ast.SelectorExpr:
		return v.in(e.X)
	case *ast.StarExpr:
		return v.in(e.X)
	case *ast.ParenExpr:
		return v.in(e.X)
	}
	return ""
}
