// Listing datasets and their versions.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PlaceholderProperty is the user property that marks filesystems that exist only to hold a child. It is zrepl's.
const PlaceholderProperty = "zrepl:placeholder"

// ListQuery says what [System.List] lists.
type ListQuery struct {
	// Datasets are the roots; empty: all pools.
	Datasets []string

	// Recursive lists all that is below the roots as well, down to Depth levels below them where Depth is not 0. Without
	// roots the listing is always recursive.
	Recursive bool
	Depth     int

	// Versions lists snapshots and bookmarks as well, except those of the kind that is excluded.
	Versions                 bool
	NoSnapshots, NoBookmarks bool
}

// List answers with the datasets ordered by name, so that parents come before their children. It is one zfs command,
// parsed while it runs (a second one where placeholders are nested, since zfs list does not tell whether a user property
// is inherited). A dataset without versions is no error. A root that does not exist is: [*DatasetDoesNotExist].
func (s *System) List(ctx context.Context, query ListQuery) ([]Dataset, error) {
	for _, name := range query.Datasets {
		if err := ValidateDataset(name); err != nil {
			return nil, err
		}
	}
	if query.Depth < 0 {
		return nil, fmt.Errorf("list datasets: the depth %d is negative", query.Depth)
	}
	features, err := s.Features(ctx)
	if err != nil {
		return nil, err
	}
	listing := newListing(query, features)
	lines := lineWriter{handle: listing.add}
	err = s.run(ctx, Command{Args: listing.args(), Stdout: &lines})
	if err != nil {
		return nil, fmt.Errorf("list datasets: %w", err)
	}
	if err := lines.finish("zfs list"); err != nil {
		return nil, err
	}
	datasets, err := listing.result()
	if err != nil {
		return nil, err
	}
	if err := s.settlePlaceholders(ctx, datasets); err != nil {
		return nil, err
	}
	return datasets, nil
}

// Get lists one dataset with its versions.
func (s *System) Get(ctx context.Context, dataset string) (Dataset, error) {
	datasets, err := s.List(ctx, ListQuery{Datasets: []string{dataset}, Versions: true})
	if err != nil {
		return Dataset{}, err
	}
	if len(datasets) != 1 {
		return Dataset{}, &DatasetDoesNotExist{Dataset: dataset}
	}
	return datasets[0], nil
}

// The columns of the listing. The user property is last because its value is the only one that others choose.
var listColumns = [...]string{
	"name", "type", "guid", "createtxg", "creation", "userrefs", "used", "referenced", "origin", "mounted",
	"encryption", "encryptionroot", "keystatus", "receive_resume_token", "snapshots_changed", PlaceholderProperty,
}

// listing collects the lines of zfs list.
type listing struct {
	query    ListQuery
	columns  []string
	datasets []Dataset
	index    map[string]int // of a dataset's name in datasets

	// orphans are versions whose dataset has not been listed (yet): zfs sorts bookmarks by their full names, so that they
	// may come before or long after their dataset.
	orphans map[string][]Version
}

func newListing(query ListQuery, features Features) *listing {
	columns := slices.Clone(listColumns[:])
	if !features.SnapshotsChanged { // an unknown property is an error
		columns = slices.DeleteFunc(columns, func(column string) bool { return column == "snapshots_changed" })
	}
	return &listing{query: query, columns: columns, index: map[string]int{}, orphans: map[string][]Version{}}
}

func (l *listing) wantSnapshots() bool { return l.query.Versions && !l.query.NoSnapshots }
func (l *listing) wantBookmarks() bool { return l.query.Versions && !l.query.NoBookmarks }

// args is the command line. For zfs list -d, the versions of a dataset are one level below it, and child datasets on that
// level are listed as well; keep drops those that were not asked for.
func (l *listing) args() []string {
	types := "filesystem,volume"
	if l.wantSnapshots() {
		types += ",snapshot"
	}
	if l.wantBookmarks() {
		types += ",bookmark"
	}
	args := []string{"zfs", "list", "-Hp", "-t", types}
	depth := l.query.Depth
	if l.wantSnapshots() || l.wantBookmarks() {
		depth++
	}
	switch {
	case len(l.query.Datasets) == 0, l.query.Recursive && l.query.Depth == 0:
		args = append(args, "-r")
	case l.query.Recursive:
		args = append(args, "-d", strconv.Itoa(depth))
	case l.wantSnapshots() || l.wantBookmarks():
		args = append(args, "-d", "1")
	}
	args = append(args, "-o", strings.Join(l.columns, ","))
	return append(args, l.query.Datasets...)
}

// keep says whether a dataset is within the query's depth.
func (l *listing) keep(name string) bool {
	if len(l.query.Datasets) == 0 || l.query.Recursive && l.query.Depth == 0 {
		return true
	}
	limit := 0
	if l.query.Recursive {
		limit = l.query.Depth
	}
	return slices.ContainsFunc(l.query.Datasets, func(root string) bool {
		below, ok := strings.CutPrefix(name, root)
		return ok && (below == "" || below[0] == '/') && strings.Count(below, "/") <= limit
	})
}

// add parses one line.
func (l *listing) add(line string) error {
	fields := strings.SplitN(line, "\t", len(l.columns))
	if len(fields) != len(l.columns) {
		return outputError("zfs list", line, "there are %d columns instead of %d", len(fields), len(l.columns))
	}
	row := listRow{values: make(map[string]string, len(fields))}
	for i, column := range l.columns {
		row.values[column] = fields[i]
	}
	name := row.values["name"]
	switch kind := row.values["type"]; kind {
	case string(Filesystem), string(Volume):
		dataset := row.dataset(DatasetType(kind))
		if row.problem == "" {
			row.check("name", ValidateDataset(name))
		}
		if row.problem == "" && l.keep(name) {
			l.addDataset(dataset)
		}
	case string(Snapshot), string(Bookmark):
		version := row.version(VersionType(kind))
		dataset, versionType, rel, err := SplitVersion(name)
		row.check("name", err)
		if row.problem == "" && versionType != version.Type {
			row.problem = "the name is not that of a " + kind
		}
		version.Name = rel
		if row.problem == "" && l.keep(dataset) {
			l.orphans[dataset] = append(l.orphans[dataset], version)
		}
	default:
		return outputError("zfs list", line, "the type %q is unknown", kind)
	}
	if row.problem != "" {
		return outputError("zfs list", line, "%s", row.problem)
	}
	return nil
}

// addDataset ignores what is listed twice, since roots may contain each other.
func (l *listing) addDataset(dataset Dataset) {
	if _, seen := l.index[dataset.Name]; seen {
		return
	}
	l.index[dataset.Name] = len(l.datasets)
	l.datasets = append(l.datasets, dataset)
}

// result gives every dataset its versions and puts all in order.
func (l *listing) result() ([]Dataset, error) {
	for name, versions := range l.orphans {
		i, ok := l.index[name]
		if !ok {
			return nil, outputError("zfs list", versions[0].Full(name), "its dataset was not listed")
		}
		slices.SortFunc(versions, compareVersions)
		l.datasets[i].Versions = slices.CompactFunc(versions, func(a, b Version) bool {
			return a.Type == b.Type && a.Name == b.Name
		})
	}
	slices.SortFunc(l.datasets, func(a, b Dataset) int { return strings.Compare(a.Name, b.Name) })
	return l.datasets, nil
}

// listRow reads the columns of one line and remembers the first that is not as it should be.
type listRow struct {
	values  map[string]string
	problem string
}

func (r *listRow) check(column string, err error) {
	if err != nil && r.problem == "" {
		r.problem = fmt.Sprintf("column %s: %v", column, err)
	}
}

// number reads a number that must be there.
func (r *listRow) number(column string) uint64 {
	value, err := strconv.ParseUint(r.values[column], 10, 64)
	if err != nil {
		r.check(column, fmt.Errorf("%q is not a number", r.values[column]))
	}
	return value
}

// numberOrNone reads a number, or 0 from "-" or a column that was not asked for.
func (r *listRow) numberOrNone(column string) uint64 {
	if value, listed := r.values[column]; !listed || value == "-" {
		return 0
	}
	return r.number(column)
}

// text reads a value that may be absent.
func (r *listRow) text(column string) string {
	if value := r.values[column]; value != "-" {
		return value
	}
	return ""
}

func (r *listRow) version(versionType VersionType) Version {
	version := Version{
		Type:      versionType,
		GUID:      r.number("guid"),
		CreateTXG: r.number("createtxg"),
		Creation:  r.time("creation"),
	}
	if versionType == Snapshot {
		version.UserRefs = r.numberOrNone("userrefs") // "-" on pools older than version 18, which have no holds
	}
	return version
}

func (r *listRow) time(column string) time.Time {
	seconds, err := strconv.ParseInt(r.values[column], 10, 64)
	if err != nil {
		r.check(column, fmt.Errorf("%q is not a time in seconds", r.values[column]))
	}
	return time.Unix(seconds, 0)
}

func (r *listRow) dataset(datasetType DatasetType) Dataset {
	return Dataset{
		Name:               r.values["name"],
		Type:               datasetType,
		GUID:               r.number("guid"),
		CreateTXG:          r.number("createtxg"),
		Used:               r.numberOrNone("used"),
		Referenced:         r.numberOrNone("referenced"),
		Origin:             r.text("origin"),
		Mounted:            r.values["mounted"] == "yes",
		Encryption:         r.text("encryption"),
		EncryptionRoot:     r.text("encryptionroot"),
		KeyStatus:          r.text("keystatus"),
		ReceiveResumeToken: r.text("receive_resume_token"),
		Placeholder:        r.values[PlaceholderProperty] == "on",
		SnapshotsChanged:   r.numberOrNone("snapshots_changed"),
	}
}

// settlePlaceholders corrects Placeholder where "on" may be inherited. Where the parent was listed and is not "on", the
// dataset's own setting is certain, so that only nested placeholders, and listings that begin inside of one, cost a
// command.
func (s *System) settlePlaceholders(ctx context.Context, datasets []Dataset) error {
	on := map[string]bool{}
	for _, d := range datasets {
		on[d.Name] = d.Placeholder
	}
	var uncertain []string
	for _, d := range datasets {
		parent, hasParent := parentOf(d.Name)
		parentOn, listed := on[parent]
		if d.Placeholder && hasParent && (parentOn || !listed) {
			uncertain = append(uncertain, d.Name)
		}
	}
	if len(uncertain) == 0 {
		return nil
	}
	local := map[string]bool{}
	for batch := range batches(uncertain, maxArguments, len(uncertain)) {
		args := append([]string{"zfs", "get", "-Hp", "-o", "name,value,source", PlaceholderProperty}, batch...)
		output, err := s.output(ctx, args...)
		var failed *CommandError
		// One that was destroyed since is no placeholder any more; it stays in the listing, which is as old.
		if err != nil && (!errors.As(err, &failed) || len(failed.missing()) == 0) {
			return fmt.Errorf("find out which placeholders are inherited: %w", err)
		}
		if err := parseSources(output, local); err != nil {
			return err
		}
	}
	for _, name := range uncertain {
		i, _ := slices.BinarySearchFunc(datasets, name, func(d Dataset, name string) int { return strings.Compare(d.Name, name) })
		datasets[i].Placeholder = local[name]
	}
	return nil
}

// parseSources reads the lines "name TAB value TAB source" of zfs get into local: which datasets have the property "on",
// set on themselves.
func parseSources(output string, local map[string]bool) error {
	for line := range strings.Lines(output) {
		line = strings.TrimSuffix(line, "\n")
		fields := strings.Split(line, "\t")
		if len(fields) != 3 {
			return outputError("zfs get", line, "there are %d columns instead of 3", len(fields))
		}
		local[fields[0]] = fields[1] == "on" && fields[2] == "local"
	}
	return nil
}

func parentOf(dataset string) (parent string, ok bool) {
	i := strings.LastIndexByte(dataset, '/')
	if i < 0 {
		return "", false
	}
	return dataset[:i], true
}
