/* A LADSPA plugin that removes the noise from speech, one channel, at any rate from 1 to 768 kHz:
 *
 *     deepnmf export base --format c -o denoise/
 *     cc -O3 -fPIC -shared -fvisibility=hidden -Idenoise ladspa.c denoise/deepnmf.c -lm -o deepnmf.so
 *     LADSPA_PATH=$PWD applyplugin -s 0.032 noisy.wav clean.wav deepnmf.so deepnmf
 *
 * ladspa.h is that of the LADSPA SDK (LGPL 2.1; Debian: apt install ladspa-sdk).
 */
#include "deepnmf.h"

#include <ladspa.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#if defined(_WIN32)
#define PUBLIC __declspec(dllexport)
#elif defined(__GNUC__)
#define PUBLIC __attribute__((visibility("default")))
#else
#define PUBLIC
#endif

/* LADSPA keeps 1 to 1000 for development. Ask ids@ladspa.org for a number of your own before you publish a plugin. */
enum { UNIQUE_ID = 512 };

enum { INPUT, OUTPUT, LATENCY, PORTS };

typedef struct {
    int rate_hz, begun;
    deepnmf *denoiser;
    LADSPA_Data *ports[PORTS];
} plugin;

static deepnmf *begin(int rate_hz)
{
    return deepnmf_create(rate_hz, 1, INFINITY, 1);
}

/* NULL for rates that the library does not take, and where memory is short. */
static LADSPA_Handle instantiate(const LADSPA_Descriptor *descriptor, unsigned long rate_hz)
{
    plugin *p = rate_hz <= INT_MAX ? (plugin *)calloc(1, sizeof(plugin)) : NULL;
    (void)descriptor;
    if (!p) return NULL;
    p->rate_hz = (int)rate_hz;
    p->denoiser = begin(p->rate_hz);
    if (p->denoiser) return p;
    free(p);
    return NULL;
}

static void connect_port(LADSPA_Handle handle, unsigned long port, LADSPA_Data *data)
{
    if (port < PORTS) ((plugin *)handle)->ports[port] = data;
}

/* Forget what was heard. Where memory is short the recording goes on: what is left of the one before lasts 32 ms. */
static void activate(LADSPA_Handle handle)
{
    plugin *p = (plugin *)handle;
    deepnmf *denoiser = p->begun ? begin(p->rate_hz) : NULL;
    if (!denoiser) return;
    deepnmf_destroy(p->denoiser);
    p->denoiser = denoiser;
    p->begun = 0;
}

/* No memory is taken here, and nothing waits. A frame of 16 ms is computed at once by the call that completes it. */
static void run(LADSPA_Handle handle, unsigned long frames)
{
    plugin *p = (plugin *)handle;
    p->begun = 1;
    deepnmf_process(p->denoiser, p->ports[INPUT], p->ports[OUTPUT], frames, 1, 1);
    *p->ports[LATENCY] = (LADSPA_Data)deepnmf_latency(p->denoiser);
}

static void cleanup(LADSPA_Handle handle)
{
    deepnmf_destroy(((plugin *)handle)->denoiser);
    free(handle);
}

static const LADSPA_PortDescriptor kinds[PORTS] = {
    LADSPA_PORT_INPUT | LADSPA_PORT_AUDIO, LADSPA_PORT_OUTPUT | LADSPA_PORT_AUDIO, LADSPA_PORT_OUTPUT | LADSPA_PORT_CONTROL};

/* Hosts know by the name "latency" what to wait for. */
static const char *const names[PORTS] = {"Input", "Output", "latency"};

static const LADSPA_PortRangeHint hints[PORTS] = {{0, 0, 0}, {0, 0, 0}, {LADSPA_HINT_BOUNDED_BELOW | LADSPA_HINT_INTEGER, 0, 0}};

/* Input and output may be one buffer, so that LADSPA_PROPERTY_INPLACE_BROKEN is not set. */
static const LADSPA_Descriptor descriptor = {
    UNIQUE_ID, "deepnmf", LADSPA_PROPERTY_HARD_RT_CAPABLE, "Noise removal for speech (deepnmf)", "deepnmf", "MIT", PORTS, kinds,
    names, hints, NULL, instantiate, connect_port, activate, run, NULL, NULL, NULL, cleanup};

PUBLIC const LADSPA_Descriptor *ladspa_descriptor(unsigned long index)
{
    return index == 0 ? &descriptor : NULL;
}
