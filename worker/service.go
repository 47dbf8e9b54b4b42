// The service: what a host's workers answer when they are asked, as a NATS micro service. All workers of a host share one
// queue, so each request is answered once.

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

const (
	// pageBytes bounds a page of a reply where the request does not; NATS allows 1 MiB by default.
	pageBytes = 256 << 10
	// versionBytes and datasetBytes are what a version and a dataset take in a page, without their names.
	versionBytes, datasetBytes = 64, 64
	// requestDeadline bounds the work for one request.
	requestDeadline = 10 * time.Minute
	// requestsAtOnce bounds the requests that are worked on at the same time.
	requestsAtOnce = 8
	// estimatesAtOnce bounds the dry runs of zfs send for one request.
	estimatesAtOnce = 4
)

// serve answers requests until ctx ends, and waits for those under way.
func (w *Worker) serve(ctx context.Context) (stop func() error, err error) {
	var requests errgroup.Group
	requests.SetLimit(requestsAtOnce)
	handle := func(name string, answer func(context.Context, micro.Request) error) micro.Handler {
		return micro.HandlerFunc(func(request micro.Request) {
			requests.Go(func() error {
				w.answer(ctx, name, request, answer)
				return nil
			})
		})
	}
	service, err := micro.AddService(w.config.Conn, micro.Config{
		Name: "zfleet-worker", Version: "1.0.0", QueueGroup: "workers",
		Description: "zfleet worker of host " + string(w.config.Host),
		Metadata:    map[string]string{"host": string(w.config.Host), "worker": w.config.Name, "version": w.config.Version},
	})
	if err != nil {
		return nil, fmt.Errorf("offer the worker's service: %w", err)
	}
	for verb, answer := range map[string]func(context.Context, micro.Request) error{
		protocol.VerbInventory:    w.answerInventory,
		protocol.VerbEstimate:     w.answerEstimate,
		protocol.VerbAbstractions: w.answerAbstractions,
		protocol.VerbRelease:      w.answerRelease,
		protocol.VerbMigrate:      w.answerMigrate,
	} {
		err := service.AddEndpoint(verb, handle(verb, answer), micro.WithEndpointSubject(protocol.RPCSubject(w.config.Host, verb)))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("offer the worker's service %s: %w", verb, err), service.Stop())
		}
	}
	return func() error {
		err := service.Stop()
		return errors.Join(err, requests.Wait())
	}, nil
}

// answer gives a request to its handler. A request that cannot be read is refused, and kept among the dead letters.
func (w *Worker) answer(
	ctx context.Context, name string, request micro.Request, answer func(context.Context, micro.Request) error,
) {
	ctx, cancel := context.WithTimeout(ctx, requestDeadline)
	defer cancel()
	ctx = protocol.ContextWithTrace(ctx, nats.Header(request.Headers()))
	ctx, span := w.tracer.Start(ctx, name)
	defer span.End()
	err := answer(ctx, request)
	if err == nil {
		return
	}
	var unreadable *unreadableRequest
	if errors.As(err, &unreadable) {
		letter := protocol.NewDeadLetter(request.Subject(), nats.Header(request.Headers()), request.Data(), unreadable.reason,
			string(w.config.Host), 1)
		if letterError := protocol.PublishDeadLetter(ctx, w.config.Resources.JetStream, letter); letterError != nil {
			w.logger.WarnContext(ctx, "a dead letter was not kept", slog.Any("error", letterError))
		}
		err = unreadable.reason
	}
	w.logger.WarnContext(ctx, "request refused", slog.String("request", name), slog.Any("error", err))
	if request.Reply() == "" {
		return
	}
	if respondError := request.Error("400", err.Error(), nil); respondError != nil {
		w.logger.DebugContext(ctx, "the refusal was not sent", slog.Any("error", respondError))
	}
}

type unreadableRequest struct{ reason error }

func (u *unreadableRequest) Error() string { return u.reason.Error() }

func readRequest(request micro.Request, v any) error {
	if err := protocol.ReadMessage(nats.Header(request.Headers()), request.Data(), v); err != nil {
		return &unreadableRequest{err}
	}
	return nil
}

func respond(request micro.Request, page any) error {
	data, err := protocol.Encode(page)
	if err != nil {
		return err
	}
	header := micro.Headers{protocol.HeaderProtocol: {fmt.Sprint(protocol.ProtocolVersion)}}
	if err := request.Respond(data, micro.WithHeaders(header)); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// answerInventory lists with one command and answers in pages.
func (w *Worker) answerInventory(ctx context.Context, request micro.Request) error {
	var asked protocol.InventoryRequest
	if err := readRequest(request, &asked); err != nil {
		return err
	}
	datasets, missing, err := w.listRoots(ctx, asked)
	if err != nil {
		return respond(request, protocol.InventoryPage{Last: true, Failure: w.failureOf(err)})
	}
	limit := asked.PageBytes
	if limit <= 0 || limit > pageBytes {
		limit = pageBytes
	}
	page, size := protocol.InventoryPage{}, 0
	flush := func() error {
		err := respond(request, page)
		page, size = protocol.InventoryPage{Number: page.Number + 1}, 0
		return err
	}
	for _, dataset := range datasets {
		if asked.Filter != nil && !asked.Filter.Match(dataset.Name) {
			continue
		}
		versions := dataset.Versions
		for first := true; first || len(versions) > 0; first = false {
			part := w.describe(ctx, dataset)
			size += datasetBytes + len(dataset.Name) + len(dataset.Origin) + len(dataset.ReceiveResumeToken)
			for len(versions) > 0 && size < limit {
				part.Versions = append(part.Versions, toProtocol(versions[0]))
				size += versionBytes + len(versions[0].Name)
				versions = versions[1:]
			}
			page.Datasets = append(page.Datasets, part)
			if size >= limit {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	page.Last, page.Missing = true, missing
	return respond(request, page)
}

// listRoots lists the roots with one command; roots that do not exist are left out and named.
func (w *Worker) listRoots(ctx context.Context, asked protocol.InventoryRequest) (datasets []zfs.Dataset, missing []string, err error) {
	roots := slices.Clone(asked.Roots)
	for {
		if len(roots) == 0 && len(asked.Roots) > 0 {
			return nil, missing, nil
		}
		query := zfs.ListQuery{Datasets: roots, Recursive: !asked.Exact, Versions: true}
		if asked.Exact {
			query.Depth = 1
		}
		datasets, err = w.config.ZFS.List(ctx, query)
		var gone *zfs.DatasetDoesNotExist
		if !errors.As(err, &gone) {
			break
		}
		index := slices.Index(roots, gone.Dataset)
		if index < 0 {
			break
		}
		missing = append(missing, gone.Dataset)
		roots = slices.Delete(roots, index, index+1)
	}
	if asked.Exact {
		datasets = slices.DeleteFunc(datasets, func(d zfs.Dataset) bool { return !slices.Contains(asked.Roots, d.Name) })
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list the datasets of %s: %w", w.config.Host, err)
	}
	return datasets, missing, nil
}

func (w *Worker) describe(ctx context.Context, dataset zfs.Dataset) protocol.Dataset {
	described := protocol.Dataset{
		Name: dataset.Name, Volume: dataset.Type == zfs.Volume, GUID: dataset.GUID, Encrypted: dataset.Encrypted(),
		Placeholder: dataset.Placeholder, Origin: dataset.Origin,
	}
	if dataset.ReceiveResumeToken == "" {
		return described
	}
	token, err := w.config.ZFS.DecodeResumeToken(ctx, dataset.ReceiveResumeToken)
	if err != nil {
		described.Resume = &protocol.ResumeState{Unreadable: err.Error()}
		return described
	}
	described.Resume = &protocol.ResumeState{
		ToGUID: token.ToGUID, FromGUID: token.FromGUID, ToName: token.ToName, Bytes: token.Bytes,
		Token: dataset.ReceiveResumeToken,
	}
	return described
}

// answerEstimate asks zfs for the size of each step, of a few at a time. A size that cannot be found out is 0.
func (w *Worker) answerEstimate(ctx context.Context, request micro.Request) error {
	var asked protocol.EstimateRequest
	if err := readRequest(request, &asked); err != nil {
		return err
	}
	reply := protocol.EstimateReply{Bytes: make([]uint64, len(asked.Steps))}
	var estimates errgroup.Group
	estimates.SetLimit(estimatesAtOnce)
	for i, step := range asked.Steps {
		if w.config.Policy.allowSend(w.config.Host, step.Filesystem) != nil {
			continue // the step itself will be refused, with this reason
		}
		estimates.Go(func() error {
			size, err := w.estimateStep(ctx, step, asked.Send)
			if err != nil {
				w.logger.DebugContext(ctx, "a step's size is not known", slog.String("filesystem", step.Filesystem),
					slog.Any("error", err))
				return nil
			}
			reply.Bytes[i] = size
			return nil
		})
	}
	if err := estimates.Wait(); err != nil {
		return err
	}
	return respond(request, reply)
}

// estimateStep is the size of what the step would send now: of the rest, where it goes on with a partial state whose token
// the sender accepts.
func (w *Worker) estimateStep(ctx context.Context, step protocol.Step, options protocol.SendOptions) (uint64, error) {
	dataset, err := w.config.ZFS.Get(ctx, step.Filesystem)
	if err != nil {
		return 0, err
	}
	t := &try{worker: w, item: protocol.WorkItem{Step: step, Send: options}}
	s, err := t.validateSend(ctx, dataset, step.ResumeToken)
	var refused *tokenRefused
	if errors.As(err, &refused) {
		s, err = t.validateSend(ctx, dataset, "")
	}
	if err != nil {
		return 0, err
	}
	return w.config.ZFS.EstimateSend(ctx, s.valid)
}
