package zfs

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sendDataset() Dataset {
	return Dataset{
		Name: "tank/fs", Type: Filesystem, Encryption: "off",
		Versions: []Version{
			{Type: Bookmark, Name: "a", GUID: 0x365ebc5ab8edb4d5, CreateTXG: 10},
			{Type: Snapshot, Name: "a", GUID: 0x365ebc5ab8edb4d5, CreateTXG: 10},
			{Type: Bookmark, Name: "b", GUID: 0x8c213168177cdfe3, CreateTXG: 20},
			{Type: Snapshot, Name: "b", GUID: 0x8c213168177cdfe3, CreateTXG: 20},
			{Type: Snapshot, Name: "c", GUID: 3, CreateTXG: 30},
		},
	}
}

func TestValidateSendCommandLines(t *testing.T) {
	t.Parallel()
	full := VersionRef{Type: Snapshot, Name: "b", GUID: 0x8c213168177cdfe3}
	from := &VersionRef{Type: Snapshot, Name: "a", GUID: 0x365ebc5ab8edb4d5}
	mark := &VersionRef{Type: Bookmark, Name: "a", GUID: 0x365ebc5ab8edb4d5}
	for want, args := range map[string]SendArgs{
		"tank/fs@b":              {Dataset: "tank/fs", To: full},
		"-i tank/fs@a tank/fs@b": {Dataset: "tank/fs", To: full, From: from},
		"-i tank/fs#a tank/fs@b": {Dataset: "tank/fs", To: full, From: mark},
		"-I tank/fs@a tank/fs@b": {Dataset: "tank/fs", To: full, From: from, Intermediate: true},
		"-w -p -b -L -c -e tank/fs@b": {Dataset: "tank/fs", To: full, Flags: SendFlags{
			Raw: true, Properties: true, BackupProperties: true, Compressed: true, LargeBlocks: true, EmbeddedData: true,
		}},
	} {
		send, err := ValidateSend(args, sendDataset(), nil, currentFeatures)
		require.NoError(t, err)
		require.Equal(t, want, strings.Join(send.argv, " "))
		require.Equal(t, args, send.Args())
	}
}

func TestValidateSendSaysWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	old := Features{Version: "0.6.5"}
	for name, c := range map[string]struct {
		change   func(*SendArgs, *Dataset)
		features *Features
		problem  SendProblem
		want     string
	}{
		"bad name":      {change: func(a *SendArgs, _ *Dataset) { a.Dataset = "-x" }, problem: SendUsage, want: "invalid dataset name"},
		"other dataset": {change: func(_ *SendArgs, d *Dataset) { d.Name = "tank/y" }, problem: SendUsage, want: `compared with the dataset "tank/y"`},
		"bookmark": {
			change: func(a *SendArgs, _ *Dataset) { a.To.Type = Bookmark }, problem: SendUsage, want: "only snapshots can be sent",
		},
		"range without from": {
			change:  func(a *SendArgs, _ *Dataset) { a.Intermediate, a.From = true, nil },
			problem: SendUsage, want: "from which one on",
		},
		"range from bookmark": {
			change:  func(a *SendArgs, _ *Dataset) { a.Intermediate, a.From.Type = true, Bookmark },
			problem: SendUsage, want: "only be sent from a snapshot on",
		},
		"odd type": {change: func(a *SendArgs, _ *Dataset) { a.From.Type = "x" }, problem: SendUsage, want: "no type of version"},
		"to missing": {
			change: func(a *SendArgs, _ *Dataset) { a.To.Name = "z" }, problem: SendVersionMissing, want: "there is no snapshot @z",
		},
		"to replaced": {
			change: func(a *SendArgs, _ *Dataset) { a.To.GUID = 9 }, problem: SendVersionReplaced, want: "is another snapshot now",
		},
		"from missing": {
			change: func(a *SendArgs, _ *Dataset) { a.From.Name = "z" }, problem: SendVersionMissing, want: "there is no snapshot @z",
		},
		"from replaced": {
			change: func(a *SendArgs, _ *Dataset) { a.From.GUID = 9 }, problem: SendVersionReplaced, want: "is another snapshot now",
		},
		"from newer": {
			change:  func(a *SendArgs, _ *Dataset) { a.From = &VersionRef{Type: Snapshot, Name: "c", GUID: 3} },
			problem: SendOrder, want: "is not older than",
		},
		"from its own bookmark": {
			change: func(a *SendArgs, _ *Dataset) {
				a.From = &VersionRef{Type: Bookmark, Name: "b", GUID: 0x8c213168177cdfe3}
			},
			problem: SendOrder, want: "is not older than",
		},
		"not encrypted": {
			change:  func(a *SendArgs, _ *Dataset) { a.Encrypted, a.Flags.Raw = &yes, true },
			problem: SendEncryption, want: "it is not encrypted",
		},
		"encrypted and not raw": {
			change:  func(a *SendArgs, d *Dataset) { a.Encrypted, d.Encryption = &yes, "aes-256-gcm" },
			problem: SendEncryption, want: "it must be sent raw",
		},
		"in the clear and raw": {
			change:  func(a *SendArgs, _ *Dataset) { a.Encrypted, a.Flags.Raw = &no, true },
			problem: SendEncryption, want: "excludes raw sends",
		},
		"key not loaded": {
			change: func(_ *SendArgs, d *Dataset) {
				d.Encryption, d.EncryptionRoot, d.KeyStatus = "aes-256-gcm", "tank", "unavailable"
			},
			problem: SendEncryption, want: "zfs load-key tank",
		},
		"encrypted with properties": {
			change: func(a *SendArgs, d *Dataset) {
				a.Flags.Properties, d.Encryption, d.KeyStatus = true, "aes-256-gcm", "available"
			},
			problem: SendEncryption, want: "properties of encrypted datasets only raw",
		},
		"no raw sends": {
			change:   func(a *SendArgs, _ *Dataset) { a.Flags.Raw = true },
			features: &old, problem: SendUsage, want: "has no raw sends",
		},
		"no tokens": {
			change:   func(a *SendArgs, _ *Dataset) { a.ResumeToken = tokenA },
			features: &old, problem: SendUsage, want: "has no resume tokens",
		},
		"malformed token": {
			change: func(a *SendArgs, _ *Dataset) { a.ResumeToken = "-n" }, problem: SendToken, want: "malformed",
		},
		"undecoded token": {
			change: func(a *SendArgs, _ *Dataset) { a.ResumeToken = tokenA }, problem: SendUsage, want: "was not decoded",
		},
		"no saved state": {
			change:  func(a *SendArgs, _ *Dataset) { a.Flags.Saved, a.From = true, nil },
			problem: SendVersionMissing, want: "no partially received state",
		},
		"saved increment": {
			change: func(a *SendArgs, _ *Dataset) { a.Flags.Saved = true }, problem: SendUsage, want: "without an incremental source",
		},
		"no large blocks": {
			change:   func(a *SendArgs, _ *Dataset) { a.Flags = SendFlags{LargeBlocks: true} },
			features: &old, problem: SendUsage, want: "cannot send large blocks",
		},
		"no compressed sends": {
			change:   func(a *SendArgs, _ *Dataset) { a.Flags = SendFlags{Compressed: true} },
			features: &old, problem: SendUsage, want: "has no compressed sends",
		},
		"no backup of properties": {
			change:   func(a *SendArgs, _ *Dataset) { a.Flags = SendFlags{BackupProperties: true} },
			features: &old, problem: SendUsage, want: "cannot send received properties",
		},
		"no saved sends": {
			change:   func(a *SendArgs, _ *Dataset) { a.Flags.Saved = true },
			features: &old, problem: SendUsage, want: "cannot send saved state",
		},
	} {
		args, dataset := matchingArgs(), sendDataset()
		c.change(&args, &dataset)
		features := currentFeatures
		if c.features != nil {
			features = *c.features
		}
		_, err := ValidateSend(args, dataset, nil, features)
		var wrong *SendArgsError
		require.ErrorAs(t, err, &wrong, name)
		require.Equal(t, c.problem, wrong.Problem, "%s: %v", name, err)
		require.ErrorContains(t, err, c.want, name)
	}
}

func TestValidateSendEncryptedThatFits(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	args, dataset := matchingArgs(), sendDataset()
	dataset.Encryption, dataset.KeyStatus = "aes-256-gcm", "unavailable"
	args.Encrypted, args.Flags.Raw = &yes, true
	_, err := ValidateSend(args, dataset, nil, currentFeatures)
	require.NoError(t, err, "a raw send needs no key")
	dataset.KeyStatus = "available"
	args.Encrypted, args.Flags.Raw = &no, false
	_, err = ValidateSend(args, dataset, nil, currentFeatures)
	require.NoError(t, err)
}

func TestValidateSendWithAToken(t *testing.T) {
	t.Parallel()
	args, dataset, token := matchingArgs(), sendDataset(), decodedToken()
	args.ResumeToken = tokenA
	send, err := ValidateSend(args, dataset, &token, currentFeatures)
	require.NoError(t, err)
	require.Equal(t, []string{"-t", tokenA}, send.argv)

	token.ToGUID = 7
	_, err = ValidateSend(args, dataset, &token, currentFeatures)
	var wrong *SendArgsError
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, SendToken, wrong.Problem)

	token = decodedToken()
	dataset.Encryption, args.Flags.Raw = "aes-256-gcm", true
	_, err = ValidateSend(args, dataset, &token, currentFeatures)
	require.ErrorContains(t, err, "of a send in the clear")
}

func TestValidateSendOfSavedState(t *testing.T) {
	t.Parallel()
	dataset, token := sendDataset(), decodedToken()
	dataset.ReceiveResumeToken = tokenA
	args := SendArgs{Dataset: "tank/fs", To: VersionRef{Type: Snapshot, GUID: token.ToGUID}, Flags: SendFlags{Saved: true, Compressed: true}}
	send, err := ValidateSend(args, dataset, &token, currentFeatures)
	require.NoError(t, err)
	require.Equal(t, []string{"-S", "tank/fs"}, send.argv)
	_, err = ValidateSend(args, dataset, nil, currentFeatures)
	require.ErrorContains(t, err, "its resume token was not decoded")
	args.To.GUID = 5
	_, err = ValidateSend(args, dataset, &token, currentFeatures)
	require.ErrorContains(t, err, "of a snapshot with the guid")
	args.To.GUID = token.ToGUID
	token.RawOK = true
	_, err = ValidateSend(args, dataset, &token, currentFeatures)
	require.ErrorContains(t, err, "raw or not")
}

func TestSystemValidateSendAsksThePool(t *testing.T) {
	t.Parallel()
	listing := row("tank/fs", "filesystem", 1, "-") +
		strings.Replace(row("tank/fs@a", "snapshot", 10, "-"), "\t10\t", fmt.Sprintf("\t%d\t", uint64(0x365ebc5ab8edb4d5)), 1) +
		strings.Replace(row("tank/fs@b", "snapshot", 20, "-"), "\t20\t", fmt.Sprintf("\t%d\t", uint64(0x8c213168177cdfe3)), 1)
	args := matchingArgs()
	args.ResumeToken = tokenA
	system := scripted(t,
		answer{args: listAll + " -d 1" + columns + " tank/fs", stdout: listing},
		answer{args: "zfs send -nvt " + tokenA, stdout: tokenOutput},
		answer{args: "zfs send -nP -t " + tokenA, stdout: tokenOutput + "incremental\ttank/fs@a\ttank/fs@b\t5514832\nsize\t5514832\n"},
	)
	send, err := system.ValidateSend(t.Context(), args)
	require.NoError(t, err)
	size, err := system.EstimateSend(t.Context(), send)
	require.NoError(t, err)
	require.Equal(t, uint64(5514832), size)
}

func TestSystemValidateSendOfAMissingDataset(t *testing.T) {
	t.Parallel()
	system := scripted(t, answer{
		args: listAll + " -d 1" + columns + " tank/fs", exit: 1, stderr: "cannot open 'tank/fs': dataset does not exist\n",
	})
	_, err := system.ValidateSend(t.Context(), matchingArgs())
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
}

func TestSendNeedsValidation(t *testing.T) {
	t.Parallel()
	_, err := scripted(t).Send(t.Context(), ValidSend{})
	require.ErrorIs(t, err, errNotValidated)
	_, err = scripted(t).EstimateSend(t.Context(), ValidSend{})
	require.ErrorIs(t, err, errNotValidated)
}

func TestSendRunsTheCommand(t *testing.T) {
	t.Parallel()
	send, err := ValidateSend(matchingArgs(), sendDataset(), nil, currentFeatures)
	require.NoError(t, err)
	system := scripted(t, answer{args: "zfs send -vP -L -c -e -i tank/fs@a tank/fs@b", stdout: "stream"})
	stream, err := system.Send(deadline(t), send)
	require.NoError(t, err)
	content, err := io.ReadAll(stream)
	require.NoError(t, err)
	require.Equal(t, "stream", string(content))
	require.NoError(t, stream.Close())
}

func TestParseEstimate(t *testing.T) {
	t.Parallel()
	size, err := parseEstimate("incremental\ta\ttank/fs@b\t8411760\nincremental\tb\ttank/fs@c\t4210544\nsize\t12622304\n")
	require.NoError(t, err)
	require.Equal(t, uint64(12622304), size)
	for _, output := range []string{"", "\n", "size\n", "size\t-1\n", "size\tmany\n", "size\t1\nsomething\n", "size 1\n"} {
		_, err := parseEstimate(output)
		require.Error(t, err, output)
	}
}

func FuzzEstimate(f *testing.F) {
	f.Add("full\ttank/fs@a\t8416880\nsize\t8416880\n")
	f.Add("size\t18446744073709551615")
	f.Fuzz(func(t *testing.T, output string) {
		if _, err := parseEstimate(output); err == nil {
			require.Contains(t, output, "size\t")
		}
	})
}
