// Spans: one for each filesystem of a plan, and one for each try of a step below it.

package coordinator

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/zfleet/zfleet/protocol"
)

// stepContext is the context with the span of the task's current try; the spans are begun as needed.
func (r *runner) stepContext(ctx context.Context, t *task, item protocol.WorkItem) context.Context {
	spans := r.spans[t]
	if spans.task == nil {
		spans.ctx, spans.task = r.tracer.Start(ctx, "filesystem", trace.WithAttributes(
			attribute.String("zfleet.filesystem", t.Filesystem), attribute.String("zfleet.target", string(t.TargetHost))))
	}
	if spans.step == nil {
		_, spans.step = r.tracer.Start(spans.ctx, "step", trace.WithAttributes(
			attribute.String("zfleet.filesystem", t.Filesystem), attribute.String("zfleet.step", item.Step.String()),
			attribute.Int("zfleet.attempt", item.Ref.Attempt)))
	}
	r.spans[t] = spans
	return trace.ContextWithSpan(ctx, spans.step)
}

func (r *runner) finishStep(ctx context.Context, a finishStep) {
	spans := r.spans[a.task]
	log := r.logger.With(slog.String("filesystem", a.task.Filesystem), slog.String("target", string(a.task.TargetHost)),
		slog.String("step", a.step.String()))
	if spans.step != nil {
		ctx = trace.ContextWithSpan(ctx, spans.step)
	}
	if a.failure != nil {
		log.WarnContext(ctx, "step failed", slog.String("kind", string(a.failure.Kind)),
			slog.String("error", a.failure.Error()), slog.String("state", string(a.task.State)))
	} else {
		log.InfoContext(ctx, "step done")
	}
	if spans.step != nil {
		if a.failure != nil {
			spans.step.SetStatus(codes.Error, a.failure.Error())
		}
		spans.step.End()
		spans.step = nil
	}
	if a.task.State.Final() && spans.task != nil {
		if a.task.State != protocol.TaskDone {
			spans.task.SetStatus(codes.Error, string(a.task.State))
		}
		spans.task.End()
		spans.task = nil
	}
	r.spans[a.task] = spans
}

// endSpans ends what is still open when the runner stops.
func (r *runner) endSpans() {
	for _, spans := range r.spans {
		if spans.step != nil {
			spans.step.End()
		}
		if spans.task != nil {
			spans.task.End()
		}
	}
}
