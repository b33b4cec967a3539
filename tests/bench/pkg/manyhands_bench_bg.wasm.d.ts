/* tslint:disable */
/* eslint-disable */
export const memory: WebAssembly.Memory;
export const __wbg_device_free: (a: number, b: number) => void;
export const __wbg_product_free: (a: number, b: number) => void;
export const __wbg_steps_free: (a: number, b: number) => void;
export const device_adapter: (a: number) => [number, number];
export const device_product: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => any;
export const device_trainer: (a: number, b: number, c: number, d: any, e: number, f: number, g: number, h: number) => any;
export const open: (a: number, b: number) => any;
export const product_read: (a: number) => any;
export const product_run: (a: number, b: number) => any;
export const steps_run: (a: number, b: number) => any;
export const wasm_bindgen__convert__closures_____invoke__h06b5060b32d0b2d2: (a: number, b: number, c: any) => [number, number];
export const wasm_bindgen__convert__closures_____invoke__h06b5060b32d0b2d2_12: (a: number, b: number, c: any) => [number, number];
export const wasm_bindgen__convert__closures_____invoke__h06b5060b32d0b2d2_13: (a: number, b: number, c: any) => [number, number];
export const wasm_bindgen__convert__closures_____invoke__h52221a85a1d56851: (a: number, b: number, c: any) => [number, number];
export const wasm_bindgen__convert__closures_____invoke__h6095b9467b904d27: (a: number, b: number, c: any, d: any) => void;
export const wasm_bindgen__convert__closures_____invoke__ha0dd05b8d88884f8: (a: number, b: number, c: any) => void;
export const wasm_bindgen__convert__closures_____invoke__ha0dd05b8d88884f8_11: (a: number, b: number, c: any) => void;
export const __wbindgen_malloc: (a: number, b: number) => number;
export const __wbindgen_realloc: (a: number, b: number, c: number, d: number) => number;
export const __wbindgen_free: (a: number, b: number, c: number) => void;
export const __wbindgen_exn_store: (a: number) => void;
export const __externref_table_alloc: () => number;
export const __wbindgen_externrefs: WebAssembly.Table;
export const __wbindgen_destroy_closure: (a: number, b: number) => void;
export const __externref_table_dealloc: (a: number) => void;
export const __wbindgen_start: () => void;
