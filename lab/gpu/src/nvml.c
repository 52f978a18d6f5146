/* A stand-in for libnvidia-ml.so.1: the calls that monitoring tools make, over state.c instead of a driver.
 *
 * Signatures and struct versions are NVML's (checked against nvidia-ml-py 13.615.71, which is how the probe calls it). A
 * call that is missing here is missing for pynvml too: it raises NVMLError_FunctionNotFound, as with an old driver. */
#include "nvml.h"
#include "state.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))

static int references; /* nvmlInit and nvmlShutdown are counted */
static int the_device; /* a handle is its address */

/* ---- library ---- */

API nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    switch (current_fault()) {
    case HANG:
        for (;;)
            sleep(3600);
    case MISMATCH:
        return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    case NO_DRIVER:
        return NVML_ERROR_DRIVER_NOT_LOADED;
    case UNKNOWN:
        return NVML_ERROR_UNKNOWN;
    default:
        references++;
        return NVML_SUCCESS;
    }
}

API nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }

API nvmlReturn_t nvmlShutdown(void)
{
    if (!references)
        return NVML_ERROR_UNINITIALIZED;
    references--;
    return NVML_SUCCESS;
}

API const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const texts[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires reset", "GPU access blocked by the operating system",
        "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
        "vgpu ecc not supported", "Insufficient resources", "Frequency not supported", "Argument version mismatch",
        "Deprecated function", "The system is not ready for the request", "GPU not found", "Invalid State",
    };
    return result >= 0 && result < (int)(sizeof texts / sizeof *texts) ? texts[result] : "Unknown Error";
}

static nvmlReturn_t put_text(const char *text, char *buffer, unsigned size)
{
    if (!buffer)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

static nvmlReturn_t read_system(struct gpu_state *s)
{
    if (!references)
        return NVML_ERROR_UNINITIALIZED;
    read_state(s);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    struct gpu_state s;
    nvmlReturn_t result = read_system(&s);
    return result ? result : put_text(s.driver, version, length);
}

API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    return put_text("13." LIBRARY_VERSION, version, length); /* needs no init, in the real library neither */
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    struct gpu_state s;
    nvmlReturn_t result = read_system(&s);
    if (result)
        return result;
    if (!version)
        return NVML_ERROR_INVALID_ARGUMENT;
    const char *minor = strchr(s.cuda, '.');
    *version = (int)strtol(s.cuda, NULL, 10) * 1000 + (minor ? (int)strtol(minor + 1, NULL, 10) * 10 : 0);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

API nvmlReturn_t nvmlSystemGetDriverBranch(nvmlSystemDriverBranchInfo_t *branch, unsigned length)
{
    if (!branch)
        return NVML_ERROR_INVALID_ARGUMENT;
    return put_text(LIBRARY_BRANCH, branch->branch, length);
}

API nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return NVML_ERROR_NOT_FOUND;
    text[got] = '\0'; /* the arguments are apart by zero bytes: this leaves the first */
    return put_text(text, name, length);
}

/* ---- finding the card ---- */

static nvmlReturn_t find(nvmlDevice_t *device)
{
    if (!references)
        return NVML_ERROR_UNINITIALIZED;
    if (!device)
        return NVML_ERROR_INVALID_ARGUMENT;
    enum fault fault = current_fault();
    if (fault == NO_DEVICE)
        return NVML_ERROR_NOT_FOUND;
    *device = &the_device;
    return fault == LOST ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    if (!references)
        return NVML_ERROR_UNINITIALIZED;
    if (!count)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = current_fault() == NO_DEVICE ? 0 : 1;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    return index || current_fault() == NO_DEVICE ? NVML_ERROR_INVALID_ARGUMENT : find(device);
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned i, nvmlDevice_t *d) { return nvmlDeviceGetHandleByIndex_v2(i, d); }

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    struct gpu_state s;
    nvmlReturn_t result = read_system(&s);
    if (result)
        return result;
    return uuid && !strcmp(uuid, s.uuid) ? find(device) : NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    struct gpu_state s;
    nvmlReturn_t result = read_system(&s);
    if (result)
        return result;
    /* tools give the domain in four digits or in eight */
    size_t given = bus_id ? strlen(bus_id) : 0, full = strlen(s.bus_id);
    bool same = given >= 12 && given <= full && !strcasecmp(bus_id, s.bus_id + full - given);
    return same ? find(device) : NVML_ERROR_NOT_FOUND;
}

/* Every device call begins so: a library in use, a handle of ours, a place for the answer, a card that answers. */
static nvmlReturn_t read_device(nvmlDevice_t device, const void *answer, struct gpu_state *s)
{
    if (!references)
        return NVML_ERROR_UNINITIALIZED;
    if (device != &the_device || !answer)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (current_fault() == LOST)
        return NVML_ERROR_GPU_IS_LOST;
    read_state(s);
    return NVML_SUCCESS;
}

#define TEXT_CALL(function, field)                                                    \
    API nvmlReturn_t function(nvmlDevice_t device, char *buffer, unsigned length)     \
    {                                                                                 \
        struct gpu_state s;                                                           \
        nvmlReturn_t result = read_device(device, buffer, &s);                        \
        return result ? result : put_text(s.field, buffer, length);                   \
    }

#define NUMBER_CALL(function, type, expression)                                       \
    API nvmlReturn_t function(nvmlDevice_t device, type *answer)                      \
    {                                                                                 \
        struct gpu_state s;                                                           \
        nvmlReturn_t result = read_device(device, answer, &s);                        \
        if (!result)                                                                  \
            *answer = (type)(expression);                                             \
        return result;                                                                \
    }

TEXT_CALL(nvmlDeviceGetName, name)
TEXT_CALL(nvmlDeviceGetUUID, uuid)
TEXT_CALL(nvmlDeviceGetSerial, serial)
TEXT_CALL(nvmlDeviceGetVbiosVersion, vbios)

NUMBER_CALL(nvmlDeviceGetIndex, unsigned, 0)
NUMBER_CALL(nvmlDeviceGetMinorNumber, unsigned, 0)
NUMBER_CALL(nvmlDeviceGetBrand, unsigned, 14) /* NVIDIA RTX */
NUMBER_CALL(nvmlDeviceGetArchitecture, unsigned, 8) /* Ada */
NUMBER_CALL(nvmlDeviceGetDisplayMode, unsigned, 0)
NUMBER_CALL(nvmlDeviceGetDisplayActive, unsigned, 0)
NUMBER_CALL(nvmlDeviceGetPersistenceMode, unsigned, s.persistence)
NUMBER_CALL(nvmlDeviceGetComputeMode, unsigned, s.compute_mode)
NUMBER_CALL(nvmlDeviceGetFanSpeed, unsigned, s.fan)
NUMBER_CALL(nvmlDeviceGetNumFans, unsigned, 1)
NUMBER_CALL(nvmlDeviceGetPerformanceState, unsigned, strtoul(s.pstate, NULL, 10))
NUMBER_CALL(nvmlDeviceGetPowerState, unsigned, strtoul(s.pstate, NULL, 10))
NUMBER_CALL(nvmlDeviceGetPowerUsage, unsigned, s.power_mw)
NUMBER_CALL(nvmlDeviceGetPowerManagementMode, unsigned, 1)
NUMBER_CALL(nvmlDeviceGetPowerManagementLimit, unsigned, s.power_limit_mw)
NUMBER_CALL(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, s.power_default_mw)
NUMBER_CALL(nvmlDeviceGetEnforcedPowerLimit, unsigned, s.power_limit_mw)
NUMBER_CALL(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, s.event_reasons)
NUMBER_CALL(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, s.event_reasons)
NUMBER_CALL(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, 0x1ffULL)
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, 4)
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, 4)
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkWidth, unsigned, 16)
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkWidth, unsigned, 16)

API nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t device, unsigned fan, unsigned *speed)
{
    return fan ? NVML_ERROR_INVALID_ARGUMENT : nvmlDeviceGetFanSpeed(device, speed);
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, pci, &s);
    if (result)
        return result;
    memset(pci, 0, sizeof *pci);
    char *rest;
    pci->domain = (unsigned)strtoul(s.bus_id, &rest, 16);
    pci->bus = *rest ? (unsigned)strtoul(rest + 1, &rest, 16) : 0;
    pci->device = *rest ? (unsigned)strtoul(rest + 1, NULL, 16) : 0;
    pci->pciDeviceId = 0x27b210deu;
    pci->pciSubSystemId = 0x181b10deu;
    snprintf(pci->busId, sizeof pci->busId, "%s", s.bus_id);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", pci->domain & 0xffff, pci->bus & 0xff,
             pci->device & 0xff);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t d, nvmlPciInfo_t *p) { return nvmlDeviceGetPciInfo_v3(d, p); }

/* ---- memory, load, temperature, power ---- */

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, memory, &s);
    if (result)
        return result;
    if (memory->version != NVML_MEMORY_V2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = s.total_mib * MIB;
    memory->reserved = s.reserved_mib * MIB;
    memory->used = s.used_mib * MIB;
    memory->free = memory->total - memory->reserved - memory->used;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, memory, &s);
    if (result)
        return result;
    memory->total = s.total_mib * MIB;
    memory->used = (s.used_mib + s.reserved_mib) * MIB; /* the first version counts the reserved part as used */
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, memory, &s);
    if (!result)
        *memory = (nvmlBAR1Memory_t){32768 * MIB, 32767 * MIB, MIB};
    return result;
}

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, rates, &s);
    if (!result)
        *rates = (nvmlUtilization_t){s.utilization, s.memory_utilization};
    return result;
}

API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *celsius)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, celsius, &s);
    if (result)
        return result;
    *celsius = s.temperature;
    return sensor ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *answer)
{
    if (answer && answer->version != NVML_TEMPERATURE_V1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    unsigned celsius = 0;
    nvmlReturn_t result = nvmlDeviceGetTemperature(device, answer ? answer->sensorType : 0, answer ? &celsius : NULL);
    if (!result)
        answer->temperature = (int)celsius;
    return result;
}

API nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned threshold, unsigned *celsius)
{
    static const unsigned limits[] = {102, 97}; /* shutdown, slowdown */
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, celsius, &s);
    if (result)
        return result;
    if (threshold >= sizeof limits / sizeof *limits)
        return NVML_ERROR_NOT_SUPPORTED;
    *celsius = limits[threshold];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *least, unsigned *most)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, least && most ? least : NULL, &s);
    if (result)
        return result;
    *least = 100000;
    *most = s.power_default_mw;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned type, unsigned *mhz)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, mhz, &s);
    if (!result)
        *mhz = type == 2 ? s.memory_clock : s.sm_clock;
    return result;
}

API nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned type, unsigned *mhz)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, mhz, &s);
    if (!result)
        *mhz = type == 2 ? 9001 : 2175;
    return result;
}

API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, major && minor ? major : NULL, &s);
    if (result)
        return result;
    *major = 8;
    *minor = 9;
    return NVML_SUCCESS;
}

/* ---- health ---- */

API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, current && pending ? current : NULL, &s);
    if (result)
        return result;
    if (!strcmp(s.ecc, "na"))
        return NVML_ERROR_NOT_SUPPORTED;
    *current = *pending = !strcmp(s.ecc, "on");
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned type, unsigned counter,
                                             unsigned long long *count)
{
    (void)counter; /* since boot and over the card's life are the same here */
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, count, &s);
    if (result)
        return result;
    if (strcmp(s.ecc, "on"))
        return NVML_ERROR_NOT_SUPPORTED;
    *count = type ? s.ecc_uncorrected : s.ecc_corrected;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned *correctable, unsigned *uncorrectable,
                                           unsigned *pending, unsigned *failure)
{
    struct gpu_state s;
    bool complete = correctable && uncorrectable && pending && failure;
    nvmlReturn_t result = read_device(device, complete ? correctable : NULL, &s);
    if (result)
        return result;
    *correctable = s.remapped_correctable;
    *uncorrectable = s.remapped_uncorrectable;
    *pending = s.remap_pending;
    *failure = s.remap_failure;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, current && pending ? current : NULL, &s);
    return result ? result : NVML_ERROR_NOT_SUPPORTED;
}

/* ---- processes ---- */

static nvmlReturn_t processes(nvmlDevice_t device, bool graphics, unsigned *count, nvmlProcessInfo_t *infos)
{
    struct gpu_state s;
    nvmlReturn_t result = read_device(device, count, &s);
    if (result)
        return result;
    unsigned room = infos ? *count : 0, found = 0;
    for (size_t i = 0; i < s.process_count; i++) {
        if (s.processes[i].graphics != graphics)
            continue;
        if (found < room)
            infos[found] = (nvmlProcessInfo_t){s.processes[i].pid, s.processes[i].bytes, 0xffffffffu, 0xffffffffu};
        found++;
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define PROCESS_CALL(function, graphics)                                                        \
    API nvmlReturn_t function(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *infos)   \
    {                                                                                           \
        return processes(device, graphics, count, infos);                                       \
    }
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v3, false)
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v2, false)
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v3, true)
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v2, true)
