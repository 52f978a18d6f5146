/* A stand-in for nvidia-smi: the real one's layout, texts and exit codes, over whatever libnvidia-ml.so.1 is installed.
 *
 * It links nothing but the C library and opens NVML at run time, as the real one does, so it runs in any glibc container. */
#include "smi.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_ARGUMENT 2
#define EXIT_NO_DEVICE 6
#define EXIT_NO_DRIVER 9
#define EXIT_NO_LIBRARY 12
#define EXIT_OTHER 255

static void *library;

/* A function of NVML by name. POSIX lets dlsym's answer be called; ISO C wants this detour. */
typedef nvmlReturn_t (*nvml_call)();
static nvml_call call(const char *name)
{
    nvml_call function;
    *(void **)(void *)&function = dlsym(library, name);
    if (!function) {
        printf("Failed to initialize NVML: Function Not Found\n");
        exit(13);
    }
    return function;
}

static const char *error_text(nvmlReturn_t result)
{
    const char *(*text)(nvmlReturn_t);
    *(void **)(void *)&text = dlsym(library, "nvmlErrorString");
    return text ? text(result) : "Unknown Error";
}

static int open_library(void)
{
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!library) /* a distribution whose loader does not look there */
        library = dlopen("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", RTLD_NOW);
    if (library)
        return 0;
    printf("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display "
           "Driver is properly installed and present in your system.\nPlease also try adding directory that contains "
           "libnvidia-ml.so to your system PATH.\n");
    return EXIT_NO_LIBRARY;
}

static int initialise(void)
{
    nvmlReturn_t result = call("nvmlInit_v2")();
    if (!result)
        return 0;
    if (result == NVML_ERROR_DRIVER_NOT_LOADED) {
        printf("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
               "NVIDIA driver is installed and running.\n\n");
        return EXIT_NO_DRIVER;
    }
    printf("Failed to initialize NVML: %s\n", error_text(result));
    if (result == NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        printf("NVML library version: %.6s\n", SMI_VERSION);
    return result < EXIT_OTHER ? result : EXIT_OTHER;
}

static void read_processes(nvmlDevice_t device, struct card *card, const char *function, char type)
{
    nvmlProcessInfo_t infos[SMI_MAX_PROCESSES];
    unsigned count = SMI_MAX_PROCESSES;
    if (call(function)(device, &count, infos))
        return;
    for (unsigned i = 0; i < count && card->process_count < SMI_MAX_PROCESSES; i++) {
        unsigned n = card->process_count++;
        card->processes[n].pid = infos[i].pid;
        card->processes[n].bytes = infos[i].usedGpuMemory;
        card->processes[n].type = type;
        unsigned size = sizeof card->processes[n].name;
        if (call("nvmlSystemGetProcessName")(infos[i].pid, card->processes[n].name, size))
            strcpy(card->processes[n].name, "[Not Found]");
    }
}

static void read_device(nvmlDevice_t device, struct card *c)
{
    unsigned counters = 0; /* volatile */
    c->memory.version = NVML_MEMORY_V2;
    call("nvmlDeviceGetName")(device, c->name, (unsigned)sizeof c->name);
    call("nvmlDeviceGetUUID")(device, c->uuid, (unsigned)sizeof c->uuid);
    call("nvmlDeviceGetSerial")(device, c->serial, (unsigned)sizeof c->serial);
    call("nvmlDeviceGetVbiosVersion")(device, c->vbios, (unsigned)sizeof c->vbios);
    call("nvmlDeviceGetPciInfo_v3")(device, &c->pci);
    call("nvmlDeviceGetMemoryInfo_v2")(device, &c->memory);
    call("nvmlDeviceGetUtilizationRates")(device, &c->load);
    call("nvmlDeviceGetTemperature")(device, 0u, &c->temperature);
    call("nvmlDeviceGetFanSpeed")(device, &c->fan);
    call("nvmlDeviceGetPerformanceState")(device, &c->pstate);
    call("nvmlDeviceGetPowerUsage")(device, &c->power_mw);
    call("nvmlDeviceGetEnforcedPowerLimit")(device, &c->limit_mw);
    call("nvmlDeviceGetPowerManagementDefaultLimit")(device, &c->default_mw);
    call("nvmlDeviceGetPersistenceMode")(device, &c->persistence);
    call("nvmlDeviceGetComputeMode")(device, &c->compute_mode);
    call("nvmlDeviceGetClockInfo")(device, 1u, &c->sm_clock);
    call("nvmlDeviceGetClockInfo")(device, 2u, &c->memory_clock);
    call("nvmlDeviceGetCudaComputeCapability")(device, &c->capability[0], &c->capability[1]);
    call("nvmlDeviceGetCurrentClocksEventReasons")(device, &c->event_reasons);
    c->ecc_supported = !call("nvmlDeviceGetEccMode")(device, &c->ecc_current, &c->ecc_pending);
    c->errors_counted = !call("nvmlDeviceGetTotalEccErrors")(device, 0u, counters, &c->corrected) &&
                        !call("nvmlDeviceGetTotalEccErrors")(device, 1u, counters, &c->uncorrected);
    call("nvmlDeviceGetRemappedRows")(device, &c->remapped[0], &c->remapped[1], &c->remapped[2], &c->remapped[3]);
    read_processes(device, c, "nvmlDeviceGetComputeRunningProcesses_v3", 'C');
    read_processes(device, c, "nvmlDeviceGetGraphicsRunningProcesses_v3", 'G');
}

/* 0, or the exit code after the real one's words. The lab's card is the only one: index 0. */
static int read_card(struct card *card)
{
    unsigned count = 0;
    nvmlDevice_t device;
    call("nvmlSystemGetDriverVersion")(card->driver, (unsigned)sizeof card->driver);
    call("nvmlSystemGetNVMLVersion")(card->nvml, (unsigned)sizeof card->nvml);
    call("nvmlSystemGetCudaDriverVersion_v2")(&card->cuda);
    call("nvmlDeviceGetCount_v2")(&count);
    if (!count) {
        printf("No devices were found\n");
        return EXIT_NO_DEVICE;
    }
    nvmlReturn_t result = call("nvmlDeviceGetHandleByIndex_v2")(0u, &device);
    if (result) {
        printf("Unable to determine the device handle for GPU0: 0000:01:00.0: %s.  Reboot the system to recover this "
               "GPU\n", error_text(result));
        return result;
    }
    read_device(device, card);
    return 0;
}

static void usage(void)
{
    printf("NVIDIA System Management Interface -- v%s\n\n"
           "NVSMI provides monitoring information for Tesla and select Quadro devices.\n\n"
           "nvidia-smi [OPTION1 [ARG1]] [OPTION2 [ARG2]] ...\n\n"
           "    -h,   --help                Print usage information and exit.\n"
           "          --version             Print version information and exit.\n"
           "    -L,   --list-gpus           Display a list of GPUs connected to the system.\n"
           "    -q,   --query               Display GPU or Unit info.\n"
           "    -i,   --id=                 Target a specific GPU or Unit.\n"
           "          --query-gpu           Information about GPU.\n"
           "          --query-compute-apps  List of currently active compute processes.\n"
           "          --format=csv[,noheader][,nounits]\n", SMI_VERSION);
}

struct options {
    enum { TABLE, LONG, LIST, VERSION, QUERY_GPU, QUERY_APPS } show;
    const char *fields, *format;
};

static const char *value_of(const char *argument, const char *option)
{
    size_t length = strlen(option);
    return !strncmp(argument, option, length) && argument[length] == '=' ? argument + length + 1 : NULL;
}

static int invalid(const char *argument)
{
    printf("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n");
    (void)argument;
    return EXIT_ARGUMENT;
}

static int parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value;
        if (!strcmp(a, "-L") || !strcmp(a, "--list-gpus"))
            o->show = LIST;
        else if (!strcmp(a, "-q") || !strcmp(a, "--query"))
            o->show = LONG;
        else if (!strcmp(a, "--version"))
            o->show = VERSION;
        else if (!strcmp(a, "-d") && i + 1 < argc)
            i++; /* -q shows all that it has, whatever part is asked for */
        else if ((value = value_of(a, "--query-gpu")))
            o->show = QUERY_GPU, o->fields = value;
        else if ((value = value_of(a, "--query-compute-apps")))
            o->show = QUERY_APPS, o->fields = value;
        else if ((value = value_of(a, "--format")))
            o->format = value;
        else if ((value = value_of(a, "--id")) || (!strcmp(a, "-i") && i + 1 < argc && (value = argv[++i]))) {
            if (strcmp(value, "0")) {
                printf("No devices were found\n");
                return EXIT_NO_DEVICE;
            }
        } else
            return invalid(a);
    }
    bool query = o->show == QUERY_GPU || o->show == QUERY_APPS;
    if (query != (o->format != NULL) || (query && strncmp(o->format, "csv", 3)))
        return invalid(o->format);
    return 0;
}

int main(int argc, char **argv)
{
    struct options options = {TABLE, NULL, NULL};
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help"))
            return usage(), 0;
    int code = parse(argc, argv, &options);
    if (code || (code = open_library()) || (code = initialise()))
        return code;
    static struct card card;
    code = read_card(&card);
    if (code && options.show != VERSION)
        return code;
    struct format format = {true, true};
    if (options.format) {
        format.header = !strstr(options.format, "noheader");
        format.units = !strstr(options.format, "nounits");
    }
    switch (options.show) {
    case TABLE:
        print_table(&card);
        break;
    case LONG:
        print_long(&card);
        break;
    case LIST:
        print_list(&card);
        break;
    case VERSION:
        print_version(&card);
        code = 0;
        break;
    case QUERY_GPU:
        code = query_card(&card, options.fields, format);
        break;
    case QUERY_APPS:
        code = query_processes(&card, options.fields, format);
        break;
    }
    call("nvmlShutdown")();
    return code;
}
