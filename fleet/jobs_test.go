package fleet

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

func TestSubmittingAJob(t *testing.T) {
	t.Parallel()
	s := newScripted(t)

	_, err := s.Job(t.Context(), "prod")
	require.ErrorContains(t, err, `there is no job "prod"; submit one with: zctl submit -f FILE`)

	job := exampleJob("prod")
	for _, step := range []struct {
		steps int
		want  Submission
	}{{4, JobCreated}, {4, JobUnchanged}, {2, JobChanged}} {
		job.Replication.Concurrency.Steps = step.steps
		outcome, err := s.SubmitJob(t.Context(), job)
		require.NoError(t, err)
		require.Equal(t, step.want, outcome)
	}
	_, err = s.SubmitJob(t.Context(), exampleJob("archive"))
	require.NoError(t, err)

	kept, err := s.Job(t.Context(), "prod")
	require.NoError(t, err)
	require.Equal(t, job, kept)
	jobs, err := s.Jobs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"archive", "prod"}, []string{jobs[0].Name, jobs[1].Name})

	_, err = s.Job(t.Context(), "prd")
	require.ErrorContains(t, err, `there is no job "prd"; the jobs are: archive, prod`)
}

func TestAJobThatIsWrongIsNotSubmitted(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	job := exampleJob("prod")
	job.Targets = nil
	_, err := s.SubmitJob(t.Context(), job)
	require.Equal(t, protocol.Usage, protocol.KindOf(err, ""))
	jobs, err := s.Jobs(t.Context())
	require.NoError(t, err)
	require.Empty(t, jobs)
}

func TestUnreadableValuesDoNotHideTheOthers(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	_, err := s.SubmitJob(t.Context(), exampleJob("prod"))
	require.NoError(t, err)
	s.put(protocol.BucketJobs, "garbage", []byte("\x01\xff\xff"))
	s.put(protocol.BucketJobs, "future", []byte{99, 0x80})

	jobs, err := s.Jobs(t.Context())
	require.Len(t, jobs, 1)
	var unreadable *UnreadableError
	require.ErrorAs(t, err, &unreadable)
	require.Len(t, unreadable.Reasons, 2)
	require.ErrorContains(t, err, "garbage")
}
