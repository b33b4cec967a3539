/* tslint:disable */
/* eslint-disable */

/**
 * A device; it lives as long as the page.
 */
export class Device {
    private constructor();
    free(): void;
    [Symbol.dispose](): void;
    /**
     * What result statements say of the device.
     */
    adapter(): string;
    /**
     * `C = A · B` with both operands on the device.
     */
    product(m: number, k: number, n: number, a: Float32Array | number[], b: Float32Array | number[]): Promise<Product>;
    /**
     * Training steps of one of the benchmark's models, `mlp`, `cnn` or `gpt`: its parameters in order, and all batches one
     * after another; ids as the bits of u32.
     */
    trainer(name: string, parameters: Array<any>, x: Float32Array | number[], y: Uint32Array | number[]): Promise<Steps>;
}

/**
 * A product that can be computed over and over.
 */
export class Product {
    private constructor();
    free(): void;
    [Symbol.dispose](): void;
    read(): Promise<Float32Array>;
    /**
     * Computes it so many times; resolves when the device has finished the last.
     */
    run(times: number): Promise<void>;
}

/**
 * A training run.
 */
export class Steps {
    private constructor();
    free(): void;
    [Symbol.dispose](): void;
    /**
     * Runs so many steps; gives the last one's loss, computed before its update.
     */
    run(steps: number): Promise<number>;
}

/**
 * Opens a backend, `gpu` or `cpu`, whatever adapter the browser gives.
 */
export function open(backend: string): Promise<Device>;

export type InitInput = RequestInfo | URL | Response | BufferSource | WebAssembly.Module;

export interface InitOutput {
    readonly memory: WebAssembly.Memory;
    readonly __wbg_device_free: (a: number, b: number) => void;
    readonly __wbg_product_free: (a: number, b: number) => void;
    readonly __wbg_steps_free: (a: number, b: number) => void;
    readonly device_adapter: (a: number) => [number, number];
    readonly device_product: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => any;
    readonly device_trainer: (a: number, b: number, c: number, d: any, e: number, f: number, g: number, h: number) => any;
    readonly open: (a: number, b: number) => any;
    readonly product_read: (a: number) => any;
    readonly product_run: (a: number, b: number) => any;
    readonly steps_run: (a: number, b: number) => any;
    readonly wasm_bindgen__convert__closures_____invoke__h06b5060b32d0b2d2: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h06b5060b32d0b2d2_12: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h06b5060b32d0b2d2_13: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h52221a85a1d56851: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h6095b9467b904d27: (a: number, b: number, c: any, d: any) => void;
    readonly wasm_bindgen__convert__closures_____invoke__ha0dd05b8d88884f8: (a: number, b: number, c: any) => void;
    readonly wasm_bindgen__convert__closures_____invoke__ha0dd05b8d88884f8_11: (a: number, b: number, c: any) => void;
    readonly __wbindgen_malloc: (a: number, b: number) => number;
    readonly __wbindgen_realloc: (a: number, b: number, c: number, d: number) => number;
    readonly __wbindgen_free: (a: number, b: number, c: number) => void;
    readonly __wbindgen_exn_store: (a: number) => void;
    readonly __externref_table_alloc: () => number;
    readonly __wbindgen_externrefs: WebAssembly.Table;
    readonly __wbindgen_destroy_closure: (a: number, b: number) => void;
    readonly __externref_table_dealloc: (a: number) => void;
    readonly __wbindgen_start: () => void;
}

export type SyncInitInput = BufferSource | WebAssembly.Module;

/**
 * Instantiates the given `module`, which can either be bytes or
 * a precompiled `WebAssembly.Module`.
 *
 * @param {{ module: SyncInitInput }} module - Passing `SyncInitInput` directly is deprecated.
 *
 * @returns {InitOutput}
 */
export function initSync(module: { module: SyncInitInput } | SyncInitInput): InitOutput;

/**
 * If `module_or_path` is {RequestInfo} or {URL}, makes a request and
 * for everything else, calls `WebAssembly.instantiate` directly.
 *
 * @param {{ module_or_path: InitInput | Promise<InitInput> }} module_or_path - Passing `InitInput` directly is deprecated.
 *
 * @returns {Promise<InitOutput>}
 */
export default function __wbg_init (module_or_path?: { module_or_path: InitInput | Promise<InitInput> } | InitInput | Promise<InitInput>): Promise<InitOutput>;
