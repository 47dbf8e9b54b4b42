package zfs

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

func TestBookmarksAreMadeByOneProgram(t *testing.T) {
	t.Parallel()
	system := scripted(t,
		answer{args: "zfs program -j tank - tank/a@1 tank/a#1 tank/b@1 tank/b#1", stdout: `{"return":{}}`},
		answer{
			args:   "zfs program -j tank - tank/a@1 tank/a#1 tank/a@2 tank/a#2 tank/b@2 tank/b#2",
			stdout: `{"return":{"1":17,"5":2}}`,
		},
	)
	runner := system.runner
	system.runner = runnerFunc(func(ctx context.Context, command Command) (Result, error) {
		// In no order: what the program could not make is tried with commands at the same time.
		switch strings.Join(command.Args, " ") {
		case "zfs bookmark tank/a@1 tank/a#1":
			return Result{ExitCode: 1, Stderr: []byte("cannot create bookmark 'tank/a#1': bookmark exists\n")}, nil
		case "zfs get -Hp -o name,value guid tank/a@1 tank/a#1":
			_, err := command.Stdout.Write([]byte("tank/a@1\t7\ntank/a#1\t7\n"))
			return Result{}, err
		case "zfs bookmark tank/b@2 tank/b#2":
			return Result{ExitCode: 2, Stderr: []byte("cannot open 'tank/b@2': dataset does not exist\n")}, nil
		}
		return runner.Run(ctx, command)
	})
	require.Equal(t, []error{nil, nil}, system.Bookmarks(t.Context(),
		Bookmarking{"tank/a@1", "tank/a#1"}, Bookmarking{"tank/b@1", "tank/b#1"}))
	results := system.Bookmarks(t.Context(),
		Bookmarking{"tank/a@1", "tank/a#1"}, Bookmarking{"tank/a@2", "tank/a#2"}, Bookmarking{"tank/b@2", "tank/b#2"})
	require.NoError(t, results[0], "it is there already")
	require.NoError(t, results[1])
	require.ErrorIs(t, results[2], ErrDatasetDoesNotExist)
	require.Empty(t, system.Bookmarks(t.Context()))
}

// runnerFunc closes the standard input of what it is given.
type runnerFunc func(context.Context, Command) (Result, error)

func (f runnerFunc) Run(ctx context.Context, command Command) (Result, error) {
	defer closeFile(command.Stdin)
	return f(ctx, command)
}

// What cannot be made by a program is made by commands: one bookmark alone, those of older versions and of other pools, and all
// of them once a program was refused.
func TestBookmarksWithoutPrograms(t *testing.T) {
	t.Parallel()
	make2 := []Bookmarking{{"tank/a@1", "tank/a#1"}, {"tank/b@1", "tank/b#1"}}
	program := "zfs program -j tank - tank/a@1 tank/a#1 tank/b@1 tank/b#1"
	for name, test := range map[string]struct {
		version, output, stderr string
		programs                int
	}{
		"old":        {version: "0.8.6-1"},
		"refused":    {version: "2.3.2-1", stderr: "Permission denied the ZFS utilities must be run as root.\n", programs: 1},
		"failed":     {version: "2.3.2-1", stderr: "Channel program execution failed:\nTimed out.\n", programs: 2},
		"no JSON":    {version: "2.3.2-1", output: "Channel program fully executed with no return value.\n", programs: 2},
		"no return":  {version: "2.3.2-1", output: "{}", programs: 2},
		"no number":  {version: "2.3.2-1", output: `{"return":{"tank/a#1":2}}`, programs: 2},
		"no source":  {version: "2.3.2-1", output: `{"return":{"2":2}}`, programs: 2},
		"too many":   {version: "2.3.2-1", output: `{"return":{"5":2}}`, programs: 2},
		"not number": {version: "2.3.2-1", output: `{"return":{"1":"x"}}`, programs: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			programs, commands := 0, make(chan string, 10)
			system := New(runnerFunc(func(_ context.Context, command Command) (Result, error) {
				switch args := strings.Join(command.Args, " "); args {
				case "zfs version":
					_, err := command.Stdout.Write([]byte("zfs-" + test.version + "\n"))
					return Result{}, err
				case program:
					programs++
					if test.stderr != "" {
						return Result{ExitCode: 1, Stderr: []byte(test.stderr)}, nil
					}
					_, err := command.Stdout.Write([]byte(test.output))
					return Result{}, err
				default:
					commands <- args
					return Result{}, nil
				}
			}))
			for range 2 {
				require.Equal(t, []error{nil, nil}, system.Bookmarks(t.Context(), make2...))
				require.ElementsMatch(t,
					[]string{"zfs bookmark tank/a@1 tank/a#1", "zfs bookmark tank/b@1 tank/b#1"}, []string{<-commands, <-commands})
			}
			require.Equal(t, test.programs, programs)
			results := system.Bookmarks(t.Context(), Bookmarking{"tank/a@1", "tank/a#1"}, Bookmarking{"other/a@1", "other/a#1"},
				Bookmarking{"tank/a", "tank/a#1"}, Bookmarking{"tank/a@1", "tank/b#1"}, Bookmarking{"tank/a@1", "tank/a"})
			require.Len(t, []string{<-commands, <-commands}, 2)
			require.Equal(t, []error{nil, nil}, results[:2])
			for _, err := range results[2:] {
				require.Error(t, err)
			}
			require.Empty(t, commands)
		})
	}
}

// Each waits for a transaction group to be synced: those at the same time for the same one.
func TestBookmarksAreDestroyedAtTheSameTime(t *testing.T) {
	t.Parallel()
	var all errgroup.Group
	arrived, resume := make(chan struct{}), make(chan struct{})
	system := New(runnerFunc(func(ctx context.Context, command Command) (Result, error) {
		select {
		case arrived <- struct{}{}:
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
		<-resume
		if command.Args[2] == "tank/a#2" {
			return Result{ExitCode: 1, Stderr: []byte("cannot destroy bookmark: permission denied\n")}, nil
		}
		return Result{}, nil
	}))
	all.Go(func() error { return system.Destroy(deadline(t), "tank/a#1", "tank/a#2", "tank/b#1") })
	for range 3 {
		<-arrived
	}
	close(resume)
	var failed *DestroyError
	require.ErrorAs(t, all.Wait(), &failed)
	require.Len(t, failed.Failed, 1)
	require.Contains(t, failed.Failed, "tank/a#2")
}

func FuzzBookmarkProgramOutput(f *testing.F) {
	for _, seed := range []string{`{"return":{}}`, `{"return":{"1":17,"5":2}}`, `{"return":{"x":1}}`, `{`, `null`, `{"return":[]}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, output string) {
		numbers, err := parseBookmarkProgramOutput(output)
		if err != nil {
			require.Empty(t, numbers)
			return
		}
		for _, number := range numbers {
			require.Positive(t, number)
		}
	})
}
