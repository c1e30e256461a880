/* A stand-in for NVIDIA's driver (libcuda.so.1) on a machine without a GPU.

   "Device" memory is memory of the host. Each stream is a thread that runs its work in order, so
   that what must not depend on time can be seen: tests read the log of what was queued, begun and
   ended. Work on memory that is not allocated, and faults that a test asks for, lose the context,
   as on a GPU: every later call returns the same error. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int CUresult;
typedef uint64_t CUdeviceptr;
typedef void (*host_fn)(void *);

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
       NOT_SUPPORTED = 801 };
enum { HTOD, DTOH, DTOD, COMPUTE, WAIT, N_KINDS };
enum { QUEUED, BEGUN, ENDED };
enum { RUNNING, PAUSED, PAUSED_UNTIL_WAIT };
enum { NON_BLOCKING = 1 };
enum { MAX_DEPTH = 16, MAX_LOG = 1 << 18, ALIGNMENT = 256 };

static const char *KIND[] = {"htod", "dtoh", "dtod", "compute", "wait"};
static const char *PHASE[] = {"queue", "begin", "end"};

typedef struct stream stream;
typedef struct op {
    int kind;
    char *into;
    const char *from;
    size_t size;
    host_fn call;
    void *data;
    stream *other; /* of a wait */
    long until;    /* of a wait: operations of ``other`` that must be done */
    struct op *next;
} op;
struct stream {
    int number, flags, ending;
    pthread_t thread;
    op *first, *last;
    long queued, done;
    stream *next;
};
typedef struct { stream *of; long until; } event;
typedef struct block { char *begin; size_t size; void *base; struct block *next; } block;
typedef struct { int phase, kind, stream; long number; size_t size; } entry;
typedef struct { int references; } context;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static stream *streams;
static block *on_device, *locked;
static context primary;
static __thread context *stack[MAX_DEPTH];
static __thread int depth;
static entry entries[MAX_LOG];
static int n_entries, n_streams, live_streams, live_events, live_locked, mode, lost;
static int lose_at_kind = -1, lose_with, n_failing_allocations, copy_delay_us;
static size_t total = (size_t)1 << 30, used, peak, pageable_copies;
static char device_name[64] = "NVIDIA Test 1";
static int capability[2] = {9, 0};
static int n_devices = 1, generation;

static void note(int phase, int kind, int number, long count, size_t size)
{
    if (n_entries < MAX_LOG)
        entries[n_entries++] = (entry){phase, kind, number, count, size};
}

static block *find(block *list, const char *address, size_t size)
{
    for (; list; list = list->next)
        if (address >= list->begin && address + size <= list->begin + list->size)
            return list;
    return NULL;
}

static block *add(block **list, size_t size, int filling)
{
    block *made = malloc(sizeof *made);
    made->base = malloc(size + ALIGNMENT);
    made->begin = (char *)(((uintptr_t)made->base + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
    made->size = size;
    memset(made->begin, filling, size);
    made->next = *list;
    *list = made;
    return made;
}

static int removed(block **list, const char *begin, size_t *size)
{
    for (; *list; list = &(*list)->next)
        if ((*list)->begin == begin) {
            block *gone = *list;
            *list = gone->next;
            *size = gone->size;
            free(gone->base);
            free(gone);
            return 1;
        }
    return 0;
}

/* Return whether the memory of a copy is allocated; the lock is held. */
static int may_copy(const op *work)
{
    int writes = work->kind == HTOD || work->kind == DTOD;
    int reads = work->kind == DTOH || work->kind == DTOD;
    return (!writes || find(on_device, work->into, work->size))
        && (!reads || find(on_device, work->from, work->size));
}

static void lose(int code)
{
    if (!lost)
        lost = code;
    pthread_cond_broadcast(&changed);
}

/* Run one operation; the lock is held, and released meanwhile. */
static void run(stream *s, op *work)
{
    if (lost)
        return;
    if (work->kind == lose_at_kind) {
        lose_at_kind = -1;
        lose(lose_with);
        return;
    }
    if (work->kind == WAIT) {
        while (work->other->done < work->until && !lost)
            pthread_cond_wait(&changed, &lock);
        return;
    }
    if (work->kind != COMPUTE && !may_copy(work)) {
        lose(ILLEGAL_ADDRESS);
        return;
    }
    note(BEGUN, work->kind, s->number, s->done, work->size);
    pthread_mutex_unlock(&lock);
    if (work->kind == COMPUTE)
        work->call(work->data);
    else {
        if (copy_delay_us)
            usleep(copy_delay_us);
        memmove(work->into, work->from, work->size);
    }
    pthread_mutex_lock(&lock);
    note(ENDED, work->kind, s->number, s->done, work->size);
}

static void *work_of(void *argument)
{
    stream *s = argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!s->first && !s->ending)
            pthread_cond_wait(&changed, &lock);
        if (!s->first)
            break;
        while (mode != RUNNING && !lost)
            pthread_cond_wait(&changed, &lock);
        op *work = s->first;
        run(s, work);
        s->first = work->next;
        if (!s->first)
            s->last = NULL;
        free(work);
        s->done++;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* Wait until ``s`` has done ``until`` operations; the lock is held. */
static CUresult await(stream *s, long until)
{
    if (mode == PAUSED_UNTIL_WAIT && s->done < until) {
        mode = RUNNING;
        pthread_cond_broadcast(&changed);
    }
    while (s->done < until && !lost)
        pthread_cond_wait(&changed, &lock);
    return lost;
}

static CUresult usable(void)
{
    return lost ? lost : depth ? SUCCESS : INVALID_CONTEXT;
}

static CUresult begin(void)
{
    pthread_mutex_lock(&lock);
    return usable();
}

static CUresult finish(CUresult result)
{
    pthread_mutex_unlock(&lock);
    return result;
}

static CUresult queue(stream *s, op work)
{
    CUresult result = begin();
    if (result || !s)
        return finish(result ? result : INVALID_HANDLE);
    op *copy = malloc(sizeof *copy);
    *copy = work;
    copy->next = NULL;
    if (s->last)
        s->last->next = copy;
    else
        s->first = copy;
    s->last = copy;
    const char *host = work.kind == HTOD ? work.from : work.kind == DTOH ? work.into : NULL;
    if (host && !find(locked, host, work.size))
        pageable_copies++;
    note(QUEUED, work.kind, s->number, s->queued, work.size);
    s->queued++;
    pthread_cond_broadcast(&changed);
    return finish(SUCCESS);
}

/* A copy on the default stream waits for all streams that do not opt out. */
static CUresult copy_now(op work)
{
    CUresult result = begin();
    for (stream *s = streams; s && !result; s = s->next)
        if (!(s->flags & NON_BLOCKING))
            result = await(s, s->queued);
    if (!result && !may_copy(&work)) {
        lose(ILLEGAL_ADDRESS);
        result = lost;
    }
    if (!result) {
        note(QUEUED, work.kind, -1, 0, work.size);
        pageable_copies++;
        memmove(work.into, work.from, work.size);
        note(ENDED, work.kind, -1, 0, work.size);
    }
    return finish(result);
}

/* ---- The driver's calls, named as libcuda exports them. ---- */

CUresult cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
CUresult cuDeviceGetCount(int *count) { *count = n_devices; return SUCCESS; }
CUresult cuDeviceGet(int *device, int index)
{
    *device = index;
    return index < n_devices ? SUCCESS : INVALID_DEVICE;
}
CUresult cuDeviceGetName(char *name, int size, int device)
{
    (void)device;
    snprintf(name, size, "%s", device_name);
    return SUCCESS;
}
CUresult cuDeviceComputeCapability(int *major, int *minor, int device)
{
    (void)device;
    *major = capability[0];
    *minor = capability[1];
    return SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    *value = attribute == 75 ? capability[0] : attribute == 76 ? capability[1] : 1;
    return SUCCESS;
}
CUresult cuDeviceTotalMem_v2(size_t *size, int device)
{
    (void)device;
    *size = total;
    return SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(context **made, int device)
{
    if (device >= n_devices)
        return INVALID_DEVICE;
    primary.references++;
    *made = &primary;
    return SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(int device)
{
    (void)device;
    return primary.references-- > 0 ? SUCCESS : INVALID_CONTEXT;
}
CUresult cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
CUresult cuCtxPushCurrent_v2(context *pushed)
{
    if (depth == MAX_DEPTH)
        return INVALID_VALUE;
    stack[depth++] = pushed;
    return SUCCESS;
}
CUresult cuCtxPopCurrent_v2(context **popped)
{
    if (!depth)
        return INVALID_CONTEXT;
    depth--;
    if (popped)
        *popped = stack[depth];
    return SUCCESS;
}
CUresult cuCtxGetCurrent(context **current)
{
    *current = depth ? stack[depth - 1] : NULL;
    return SUCCESS;
}
CUresult cuCtxGetDevice(int *device) { *device = 0; return usable(); }
CUresult cuCtxSynchronize(void)
{
    CUresult result = begin();
    for (stream *s = streams; s && !result; s = s->next)
        result = await(s, s->queued);
    return finish(result);
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size)
{
    CUresult result = begin();
    if (!result && (n_failing_allocations > 0 || used + size > total)) {
        n_failing_allocations -= n_failing_allocations > 0;
        result = OUT_OF_MEMORY;
    }
    if (!result) {
        *pointer = (CUdeviceptr)(uintptr_t)add(&on_device, size, 0xAB)->begin;
        used += size;
        peak = used > peak ? used : peak;
    }
    return finish(result);
}
CUresult cuMemFree_v2(CUdeviceptr pointer)
{
    size_t size = 0;
    CUresult result = begin();
    if (!result && !removed(&on_device, (char *)(uintptr_t)pointer, &size))
        result = INVALID_VALUE;
    used -= size;
    return finish(result);
}
CUresult cuMemGetInfo_v2(size_t *left, size_t *all)
{
    CUresult result = begin();
    *left = total - used;
    *all = total;
    return finish(result);
}
CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned flags)
{
    (void)flags;
    CUresult result = begin();
    if (!result && n_failing_allocations > 0) {
        n_failing_allocations--;
        result = OUT_OF_MEMORY;
    }
    if (!result) {
        *pointer = add(&locked, size, 0xCD)->begin;
        live_locked++;
    }
    return finish(result);
}
CUresult cuMemFreeHost(void *pointer)
{
    size_t size = 0;
    CUresult result = begin();
    if (!result) {
        result = removed(&locked, pointer, &size) ? SUCCESS : INVALID_VALUE;
        live_locked--;
    }
    return finish(result);
}

CUresult cuStreamCreate(stream **made, unsigned flags)
{
    CUresult result = begin();
    if (!result) {
        stream *s = *made = calloc(1, sizeof *s);
        s->number = n_streams++;
        s->flags = (int)flags;
        s->next = streams;
        streams = s;
        live_streams++;
        pthread_create(&s->thread, NULL, work_of, s);
    }
    return finish(result);
}
CUresult cuStreamDestroy_v2(stream *s)
{
    CUresult result = begin();
    if (!result) {
        s->ending = 1;
        live_streams--;
        pthread_cond_broadcast(&changed);
        pthread_detach(s->thread); /* the struct stays: events may name it */
    }
    return finish(result);
}
CUresult cuStreamSynchronize(stream *s)
{
    CUresult result = begin();
    return finish(result ? result : await(s, s->queued));
}
CUresult cuStreamQuery(stream *s)
{
    CUresult result = begin();
    return finish(result ? result : s->done < s->queued ? NOT_READY : SUCCESS);
}
CUresult cuStreamWaitEvent(stream *s, event *e, unsigned flags)
{
    (void)flags;
    op work = {.kind = WAIT, .other = e->of, .until = e->until};
    return e->of ? queue(s, work) : SUCCESS;
}
CUresult cuLaunchHostFunc(stream *s, host_fn call, void *data)
{
    op work = {.kind = COMPUTE, .call = call, .data = data};
    return queue(s, work);
}

CUresult cuEventCreate(event **made, unsigned flags)
{
    (void)flags;
    CUresult result = begin();
    if (!result) {
        *made = calloc(1, sizeof **made);
        live_events++;
    }
    return finish(result);
}
CUresult cuEventDestroy_v2(event *e)
{
    CUresult result = begin();
    if (!result) {
        live_events--;
        free(e);
    }
    return finish(result);
}
CUresult cuEventRecord(event *e, stream *s)
{
    CUresult result = begin();
    if (!result && !s)
        result = INVALID_HANDLE;
    if (!result) {
        e->of = s;
        e->until = s->queued;
    }
    return finish(result);
}
CUresult cuEventSynchronize(event *e)
{
    CUresult result = begin();
    return finish(result ? result : e->of ? await(e->of, e->until) : SUCCESS);
}
CUresult cuEventQuery(event *e)
{
    CUresult result = begin();
    return finish(result ? result : e->of && e->of->done < e->until ? NOT_READY : SUCCESS);
}
CUresult cuEventElapsedTime_v2(float *ms, event *first, event *last)
{
    (void)first;
    (void)last;
    *ms = 1.0f;
    return SUCCESS;
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr into, const void *from, size_t size, stream *s)
{
    op work = {.kind = HTOD, .into = (char *)(uintptr_t)into, .from = from, .size = size};
    return queue(s, work);
}
CUresult cuMemcpyDtoHAsync_v2(void *into, CUdeviceptr from, size_t size, stream *s)
{
    op work = {.kind = DTOH, .into = into, .from = (char *)(uintptr_t)from, .size = size};
    return queue(s, work);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr into, CUdeviceptr from, size_t size, stream *s)
{
    op work = {.kind = DTOD, .into = (char *)(uintptr_t)into,
               .from = (char *)(uintptr_t)from, .size = size};
    return queue(s, work);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr into, const void *from, size_t size)
{
    op work = {.kind = HTOD, .into = (char *)(uintptr_t)into, .from = from, .size = size};
    return copy_now(work);
}
CUresult cuMemcpyDtoH_v2(void *into, CUdeviceptr from, size_t size)
{
    op work = {.kind = DTOH, .into = into, .from = (char *)(uintptr_t)from, .size = size};
    return copy_now(work);
}
CUresult cuGetErrorString(CUresult code, const char **text)
{
    *text = code == OUT_OF_MEMORY ? "out of memory"
        : code == INVALID_CONTEXT ? "invalid device context"
        : code == ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
        : code == 719 ? "unspecified launch failure"
        : code == NOT_READY ? "device not ready"
        : "an error of the stand-in driver";
    return SUCCESS;
}

/* ---- What tests call. ---- */

void standin_reset(size_t size, const char *name, int major, int minor)
{
    pthread_mutex_lock(&lock);
    generation++; /* what was made before must not be freed in this one */
    mode = RUNNING;
    pthread_cond_broadcast(&changed);
    for (stream *s = streams; s; s = s->next)
        while (s->first)
            pthread_cond_wait(&changed, &lock);
    size_t ignored;
    while (on_device)
        removed(&on_device, on_device->begin, &ignored);
    streams = NULL; /* a stream that was never destroyed waits for work forever */
    n_entries = n_streams = live_streams = live_events = live_locked = lost = 0;
    lose_at_kind = -1;
    n_failing_allocations = copy_delay_us = 0;
    total = size;
    used = peak = pageable_copies = 0;
    snprintf(device_name, sizeof device_name, "%s", name);
    capability[0] = major;
    capability[1] = minor;
    pthread_mutex_unlock(&lock);
}
void standin_set_mode(int wanted)
{
    pthread_mutex_lock(&lock);
    mode = wanted;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}
void standin_lose_at(int kind, int code)
{
    pthread_mutex_lock(&lock);
    lose_at_kind = kind;
    lose_with = code;
    pthread_mutex_unlock(&lock);
}
void standin_fault(int code)
{
    pthread_mutex_lock(&lock);
    lose(code);
    pthread_mutex_unlock(&lock);
}
void standin_fail_allocations(int count) { n_failing_allocations = count; }
void standin_slow_copies(int microseconds) { copy_delay_us = microseconds; }
void standin_set_total(size_t size) { total = size; }
int standin_generation(void) { return generation; }
size_t standin_used(void) { return used; }
size_t standin_peak(void) { return peak; }
size_t standin_pageable_copies(void) { return pageable_copies; }
int standin_live(int what)
{
    return what == 0 ? live_streams : what == 1 ? live_events : live_locked;
}
/* Return whether ``size`` bytes at ``address`` are allocated on the device. */
int standin_is_allocated(CUdeviceptr address, size_t size)
{
    pthread_mutex_lock(&lock);
    int found = find(on_device, (char *)(uintptr_t)address, size) != NULL;
    pthread_mutex_unlock(&lock);
    return found;
}
/* Write entry ``index`` of the log as "phase kind stream number bytes"; return 0 at the end. */
int standin_entry(int index, char *text, int size)
{
    pthread_mutex_lock(&lock);
    int found = index < n_entries;
    if (found) {
        entry e = entries[index];
        snprintf(text, size, "%s %s %d %ld %zu", PHASE[e.phase], KIND[e.kind], e.stream, e.number,
                 e.size);
    }
    pthread_mutex_unlock(&lock);
    return found;
}
void standin_clear_log(void)
{
    pthread_mutex_lock(&lock);
    n_entries = 0;
    pthread_mutex_unlock(&lock);
}
